// plumb: the administrator's command. Its command line is defined here, what the commands do in a
// file each (commands.h); a VM itself is the program plumb-vm (vm_main.cc), and what copies disks
// is plumb-snapshot (snapshot_main.cc).
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/definition.h"

namespace plumb {
namespace {

// Where the parser puts what it finds; lives as long as the parser.
struct Arguments {
  RunOptions run;
  std::string name;
  std::string wwn;
  RdmOptions rdm;
  std::string disk;
  AttachOptions attach;
  int detach_timeout_s = 30;
  bool force = false;
  std::string path;
  std::string size;
  bool sparse = false;
  int timeout_s = 60;
  bool json = false;
};

void add_run(CLI::App& app, RunOptions& options, Action& action) {
  CLI::App* run = add_command(
      app, "run", "run a VM, in the foreground or detached",
      "plumb run --name db1 --kernel vmlinuz --initrd initrd.img --memory 1G\n"
      "         --cmdline 'root=/dev/vda console=ttyS0' --disk root.img --lun naa.6001405…\n"
      "Exit: 0 the guest powered off, 4 it rebooted (--on-reboot exit), 5 it crashed.");
  run->add_option("definition", options.file, "VM definition (TOML); every key is also a flag");
  for (const KeyHelp& key : vm_keys()) {
    const std::string flag = "--" + std::string(key.key);
    const std::string name(key.key);
    const std::string help(key.help);
    if (key.flag) {
      run->add_flag(flag, options.switches[name], help);
    } else {
      run->add_option(flag, options.keys[name], help);
    }
  }
  run->add_option("--disk", options.disks,
                  "image file: PATH[,id=ID][,serial=S][,read-only][,cache=writeback]"
                  "[,bus=scsi][,engine=io_uring|libaio][,discard=off][,on-error=pause][,iops=N]"
                  "[,bandwidth=SIZE]")
      ->allow_extra_args(false);
  run->add_option("--lun", options.luns, "raw LUN by identity: naa.…[,id=ID][,… as --disk]")
      ->allow_extra_args(false);
  run->add_option("--rdm", options.rdms, "LUN of a mapping file: FILE[,id=ID][,… as --disk]")
      ->allow_extra_args(false);
  run->add_option("--net", options.nets, "network interface: tap=IF[,mac=MAC]")
      ->allow_extra_args(false);
  run->add_flag("--detach", options.detach, "return when the VM runs");
  run->add_flag("--verbose", options.verbose, "log more");
  run->callback([&] { action = [&options] { return run_vm(options); }; });
}

// A command about one running VM.
CLI::App* add_vm_command(CLI::App& app, Arguments& arguments, const char* name, const char* help,
                         const char* example) {
  CLI::App* command = add_command(app, name, help, example);
  command->add_option("name", arguments.name, "name of the VM")->required();
  return command;
}

void add_vm_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* ps = add_command(app, "ps", "list running VMs", "plumb ps --json");
  ps->add_flag("--json", args.json, "print JSON");
  ps->callback([&] { action = [&args] { return list_vms(args.json); }; });

  CLI::App* stop =
      add_vm_command(app, args, "stop", "press the power button; kill after a timeout",
                     "plumb stop db1 --timeout 120    (exit code 3: it had to be killed)");
  stop->add_option("--timeout", args.timeout_s, "seconds until the VM is killed")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  stop->callback([&] { action = [&args] { return stop_vm(args.name, args.timeout_s); }; });

  add_vm_command(app, args, "kill", "end a VM at once, as if its power failed", "plumb kill db1")
      ->callback([&] { action = [&args] { return kill_vm(args.name); }; });
  add_vm_command(app, args, "pause", "stop the vCPUs of a VM", "plumb pause db1")->callback([&] {
    action = [&args] { return change_state(args.name, "/vm/pause"); };
  });
  add_vm_command(app, args, "resume", "let a paused VM go on", "plumb resume db1")->callback([&] {
    action = [&args] { return change_state(args.name, "/vm/resume"); };
  });
  add_vm_command(app, args, "console", "connect to the console of a VM",
                 "plumb console db1    (Ctrl-] leaves)")
      ->callback([&] { action = [&args] { return attach_console(args.name); }; });
}

void add_attach(CLI::App& disk, Arguments& args, Action& action) {
  AttachOptions& options = args.attach;
  CLI::App* attach = add_command(
      disk, "attach", "give a running VM another disk",
      "plumb disk attach db1 logs --lun naa.60014051234abcd5000000000000000a --bus scsi");
  attach->add_option("name", options.vm, "name of the VM")->required();
  attach->add_option("disk", options.id, "id of the disk, new in the VM")->required();
  for (const KeyHelp& key : disk_keys()) {
    const std::string name(key.key);
    const std::string help(key.help);
    if (name == "id") continue;
    if (key.flag && name != "discard") {
      attach->add_flag("--" + name, options.switches[name], help);
    } else {
      attach->add_option("--" + name, options.keys[name], help);
    }
  }
  attach->add_option("--snapshot", options.snapshot,
                     "a snapshot's disk in place of a source, with --read-only: ID/DISK");
  attach->callback([&] { action = [&args] { return attach_disk(args.attach); }; });

  CLI::App* detach = add_vm_command(
      disk, args, "detach", "take a disk from a running VM, when its guest lets go of it",
      "plumb disk detach db1 logs --timeout 60\n"
      "Exit: 1 the guest did not let go, 3 (--force) it lost a disk that it still used.");
  detach->add_option("disk", args.disk, "id of the disk")->required();
  detach->add_option("--timeout", args.detach_timeout_s, "seconds that the guest has")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  detach->add_flag("--force", args.force, "take it after the timeout: the guest gets I/O errors");
  detach->callback([&] {
    action = [&args] {
      return detach_disk(args.name, args.disk, args.detach_timeout_s, args.force);
    };
  });
}

void add_disk_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* disk = app.add_subcommand("disk", "disks of a running VM, and of arrays");
  CLI::App* list = add_vm_command(*disk, args, "list", "list the disks of a VM, with what they did",
                                  "plumb disk list db1");
  list->add_flag("--json", args.json, "print JSON, with latencies");
  list->callback([&] { action = [&args] { return list_disks(args.name, args.json); }; });

  CLI::App* resize =
      add_vm_command(*disk, args, "resize", "grow a disk while its VM runs",
                     "plumb disk resize db1 data 200G    (a LUN: without a size, after the host's "
                     "rescan)");
  resize->add_option("disk", args.disk, "id of the disk")->required();
  resize->add_option("size", args.size, "new size of an image, e.g. 200G");
  resize->callback(
      [&] { action = [&args] { return resize_disk(args.name, args.disk, args.size); }; });

  add_attach(*disk, args, action);

  CLI::App* image = app.add_subcommand("image", "raw image files");
  CLI::App* create =
      add_command(*image, "create", "make an image, written with zeroes from end to end",
                  "plumb image create /srv/db1.img 20G");
  create->add_option("path", args.path, "file to make")->required();
  create->add_option("size", args.size, "size, e.g. 20G")->required();
  create->add_flag("--sparse", args.sparse, "take no room yet; first writes will be slower");
  create->callback(
      [&] { action = [&args] { return create_image(args.path, args.size, args.sparse); }; });
}

void add_rdm_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* rdm = app.add_subcommand("rdm", "mapping files, each of which stands for a LUN");
  CLI::App* create =
      add_command(*rdm, "create", "map a LUN: record its identity and what it is like",
                  "plumb rdm create data.rdm --wwn naa.60014051234abcd5000000000000000a\n"
                  "The LUN itself is not touched, nor when the file is deleted.");
  create->add_option("file", args.rdm.file, "file to make")->required();
  create->add_option("--wwn", args.rdm.wwn, "identity, e.g. naa.6001405…")->required();
  create
      ->add_option("--mode", args.rdm.mode,
                   "virtual: reads and writes of a generic disk; physical: SCSI commands")
      ->capture_default_str();
  create->add_flag("--shared", args.rdm.shared, "several VMs may have it at once");
  create->add_flag("--allow-weak-identity", args.rdm.allow_weak_identity,
                   "take a LUN whose identity may not be unique");
  create->add_flag("--replace", args.rdm.replace, "replace a mapping that no VM uses");
  create->callback([&] { action = [&args] { return create_rdm(args.rdm); }; });

  CLI::App* show = add_command(*rdm, "show", "what a mapping says, and where its LUN is now",
                               "plumb rdm show data.rdm");
  show->add_option("file", args.rdm.file, "mapping file")->required();
  show->add_flag("--json", args.json, "print JSON");
  show->callback([&] { action = [&args] { return show_rdm(args.rdm.file, args.json); }; });

  CLI::App* verify =
      add_command(*rdm, "verify", "whether a mapping's LUN is here and as it was mapped",
                  "plumb rdm verify data.rdm    (exit code 1: it is not, and why)");
  verify->add_option("file", args.rdm.file, "mapping file")->required();
  verify->add_flag("--json", args.json, "print JSON");
  verify->callback([&] { action = [&args] { return verify_rdm(args.rdm.file, args.json); }; });
}

void add_host_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* lun = app.add_subcommand("lun", "LUNs that this host sees");
  CLI::App* list = add_command(*lun, "list", "list LUNs with their WWN and use", "plumb lun list");
  list->add_flag("--json", args.json, "print JSON");
  list->callback([&] { action = [&args] { return list_luns(args.json); }; });

  CLI::App* show = add_command(*lun, "show", "all facts about one LUN",
                               "plumb lun show naa.60014051234abcd5000000000000000a");
  show->add_option("wwn", args.wwn, "identity, e.g. naa.6001405…")->required();
  show->add_flag("--json", args.json, "print JSON");
  show->callback([&] { action = [&args] { return show_lun(args.wwn, args.json); }; });

  CLI::App* doctor = add_command(app, "doctor", "examine this host: KVM, engines, limits, LUNs",
                                 "plumb doctor    (exit code 1: VMs cannot run here)");
  doctor->add_flag("--json", args.json, "print JSON");
  doctor->callback([&] { action = [&args] { return examine_host(args.json); }; });
}

// Commands that a program of its own has, which may take its time to start: the name of a command
// or of a group, and its help.
constexpr std::pair<const char*, const char*> kElsewhere[] = {
    {"array", "storage arrays that plumb.toml names"},
    {"create", "make a VM of a template"},
    {"nbd", "disks for programs that speak NBD"},
    {"snapshot", "copies of all disks of a VM, or of several, at one instant"},
    {"template", "machines to make VMs from"}};

// The same, of the group `disk`.
constexpr std::pair<const char*, const char*> kDiskElsewhere[] = {
    {"create", "make a disk in an array"}, {"delete", "delete a disk that plumb made in an array"}};

bool is_elsewhere(int argc, char** argv) {
  const auto has = [](const auto& commands, std::string_view name) {
    return std::ranges::any_of(commands, [name](const auto& one) { return one.first == name; });
  };
  if (argc > 2 && std::string_view(argv[1]) == "disk") return has(kDiskElsewhere, argv[2]);
  return argc > 1 && has(kElsewhere, argv[1]);
}

// Becomes plumb-snapshot, with the same arguments.
int become_elsewhere(char** argv) {
  const std::string program = program_beside("plumb-snapshot");
  ::execv(program.c_str(), argv);
  fmt::print(stderr, "plumb: {} cannot be started: {}\n", program, std::strerror(errno));
  return kExitFailed;
}

int run(int argc, char** argv) {
  if (is_elsewhere(argc, argv)) return become_elsewhere(argv);
  CLI::App app{"plumb runs virtual machines whose disks are raw LUNs or image files"};
  app.set_version_flag("--version", "plumb " PLUMB_VERSION);
  app.footer("Each command has --help with an example. Manual: plumb(1).");
  Arguments arguments;
  Action action;
  add_run(app, arguments.run, action);
  add_vm_commands(app, arguments, action);
  add_disk_commands(app, arguments, action);
  add_rdm_commands(app, arguments, action);
  add_host_commands(app, arguments, action);
  for (const auto& [name, help] : kElsewhere) app.add_subcommand(name, help);
  for (const auto& [name, help] : kDiskElsewhere) {
    app.get_subcommand("disk")->add_subcommand(name, help);
  }
  return run_command_line(app, {"disk", "image", "lun", "rdm"}, action, argc, argv);
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  try {
    return plumb::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb: an error nobody expected: {}\n", error.what());
    return plumb::kExitFailed;
  }
}
