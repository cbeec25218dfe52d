// plumb-snapshot: `plumb snapshot`, `template`, `array`, `nbd` and `create`, and of
// `plumb disk` what makes disks in arrays; started by plumb, which stands beside it.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>

#include "cli/array_commands.h"
#include "cli/command_line.h"
#include "cli/snapshot_commands.h"
#include "cli/template_commands.h"

namespace plumb {
namespace {

struct Arguments {
  SnapshotCreateOptions create;
  SnapshotRevertOptions revert;
  std::string vm;
  std::string id;
  std::vector<std::string> ids;
  std::string array;
  std::string file;
  TemplateCreateOptions make;
  TemplateDeployOptions deploy;
  TemplateImportOptions import;
  ArrayDiskOptions disk;
  NbdServeOptions nbd;
  bool json = false;
};

// A limit is given in seconds, and may have a fraction.
void add_limit(CLI::App& command, const char* flag, unsigned& limit_ms, const char* help) {
  command
      .add_option_function<double>(
          flag, [&limit_ms](double seconds) { limit_ms = static_cast<unsigned>(seconds * 1000); },
          fmt::format("{} (default {})", help, limit_ms / 1000))
      ->check(CLI::Range(0.1, 600.0));
}

void add_create(CLI::App& group, Arguments& args, Action& action) {
  SnapshotCreateOptions& options = args.create;
  CLI::App* create = add_command(
      group, "create", "copy all disks of a VM at one instant, or of several VMs at the same one",
      "plumb snapshot create db1 --quiesce fs --note 'before the upgrade'\n"
      "         plumb snapshot create --group shop db1 web1 web2\n"
      "         plumb snapshot create db1 --libvirt\n"
      "Exit: 3 the grade is weaker than asked, 14 the array failed, 15 a guest was not frozen as\n"
      "required, or may still be frozen.");
  create->add_option("vms", options.vms, "names of the VMs")->required();
  create->add_flag("--libvirt{qemu:///system}", options.libvirt,
                   "the VMs are libvirt's, at this URI: --libvirt=qemu:///session");
  create->add_option("--group", options.group, "name of the group that several VMs are");
  create
      ->add_option("--quiesce", options.quiesce,
                   "how consistent the copies are to be: crash, fs, application")
      ->capture_default_str();
  create
      ->add_option("--require", options.require,
                   "the weakest grade to keep: crash, fs, application")
      ->capture_default_str();
  create->add_option("--mountpoint", options.mountpoints,
                     "freeze only this file system of the guest; may be repeated");
  create->add_option("--note", options.note, "a text to keep with it");
  create->add_option("--hooks", options.hooks, "folder of programs to run at each step");
  add_limit(*create, "--agent-timeout", options.limits.agent_ms,
            "seconds for the guest agent to answer");
  add_limit(*create, "--freeze-timeout", options.limits.freeze_ms, "seconds for a guest to freeze");
  add_limit(*create, "--frozen-limit", options.limits.frozen_ms,
            "seconds that a guest is frozen at most");
  add_limit(*create, "--held-limit", options.limits.held_ms, "seconds that disks are held at most");
  add_limit(*create, "--thaw-timeout", options.limits.thaw_ms, "seconds that a thaw is waited for");
  create->add_flag("--dry-run", options.dry_run, "only show what would be done");
  create->add_flag("--json", options.json, "print JSON");
  create->callback([&] { action = [&args] { return create_snapshot(args.create); }; });
}

void add_revert(CLI::App& group, Arguments& args, Action& action) {
  SnapshotRevertOptions& options = args.revert;
  CLI::App* revert = add_command(
      group, "revert", "put the disks of a VM that does not run back to a snapshot",
      "plumb snapshot revert db1-20261122-190705\n"
      "The present state is kept first, as a snapshot. Exit: 11 a VM has the disks, 14 the array\n"
      "failed, and the message says whether anything was changed.");
  revert->add_option("id", options.id, "the snapshot's id")->required();
  revert->add_option("--vm", options.vm, "only this VM of a group's snapshot");
  revert->add_option("--disk", options.disks, "only this disk; may be repeated");
  revert->add_flag("--discard-present", options.discard_present,
                   "do not keep the present state: it is lost");
  revert->add_option("--hooks", options.hooks, "folder of programs to run at each step");
  revert->add_flag("--dry-run", options.dry_run, "only show what would be done");
  revert->add_flag("--json", options.json, "print JSON");
  revert->callback([&] { action = [&args] { return revert_to_snapshot(args.revert); }; });
}

void add_snapshot_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* group =
      app.add_subcommand("snapshot", "copies of all disks of a VM, or of several, at one instant");
  add_create(*group, args, action);

  CLI::App* list = add_command(*group, "list", "list snapshots, those of a VM as a tree",
                               "plumb snapshot list db1");
  list->add_option("vm", args.vm, "name of a VM");
  list->add_flag("--json", args.json, "print JSON");
  list->callback([&] { action = [&args] { return list_snapshots(args.vm, args.json); }; });

  CLI::App* show = add_command(*group, "show", "all that is known of a snapshot",
                               "plumb snapshot show db1-20261122-190705");
  show->add_option("id", args.id, "the snapshot's id")->required();
  show->add_flag("--json", args.json, "print JSON");
  show->callback([&] { action = [&args] { return show_snapshot(args.id, args.json); }; });

  add_revert(*group, args, action);

  CLI::App* remove = add_command(*group, "delete", "delete snapshots, in any order",
                                 "plumb snapshot delete db1-20261122-190705");
  remove->add_option("ids", args.ids, "the snapshots' ids")->required();
  remove->callback([&] { action = [&args] { return delete_snapshots(args.ids); }; });

  CLI::App* map = add_command(*group, "map", "show a snapshot's disk to this host, read-only",
                              "plumb snapshot map db1-20261122-190705/data");
  map->add_option("disk", args.id, "ID/DISK, or ID/VM/DISK of a group")->required();
  map->add_flag("--json", args.json, "print JSON");
  map->callback([&] { action = [&args] { return map_snapshot(args.id, args.json); }; });

  CLI::App* unmap = add_command(*group, "unmap", "take it away again",
                                "plumb snapshot unmap db1-20261122-190705/data");
  unmap->add_option("disk", args.id, "ID/DISK, or ID/VM/DISK of a group")->required();
  unmap->callback([&] { action = [&args] { return unmap_snapshot(args.id); }; });

  add_command(*group, "recover", "remove or finish what commands that were cut short have left",
              "plumb snapshot recover    (the other commands of snapshots do it too)")
      ->callback([&] { action = [] { return recover_snapshots(); }; });
}

void add_nbd_commands(CLI::App& app, Arguments& args, Action& action) {
  NbdServeOptions& options = args.nbd;
  CLI::App* group = app.add_subcommand("nbd", "disks for programs that speak NBD");
  CLI::App* serve = add_command(
      *group, "serve", "serve disks of a snapshot, or of a VM that does not run",
      "plumb nbd serve db1-20261122-190705/data --socket /run/db1.nbd\n"
      "         nbdcopy 'nbd+unix:///?socket=/run/db1.nbd' data.img\n"
      "         plumb nbd serve db1.toml --writable --listen 192.0.2.1:10809 --tls-psk keys\n"
      "It serves until a signal ends it. Exit: 11 somebody has a disk, or the socket.");
  serve
      ->add_option("targets", options.targets,
                   "ID, ID/DISK or ID/VM/DISK of a snapshot; FILE.toml or FILE.toml/DISK of a VM")
      ->required();
  serve->add_option("--socket", options.socket, "Unix socket; only its user may connect");
  serve->add_option("--listen", options.listen,
                    "TCP address, 127.0.0.1:10809 or [::1]:10809, or a port of 127.0.0.1");
  serve->add_option("--tls-psk", options.tls_psk,
                    "file of keys, USER:HEXKEY, mode 0600: clients must know one");
  serve->add_flag("--insecure", options.insecure, "let everybody in who can connect");
  serve->add_flag("--writable", options.writable, "let clients write the disks of a VM");
  serve->callback([&] { action = [&args] { return serve_nbd(args.nbd); }; });
}

void add_array_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* group = app.add_subcommand("array", "storage arrays that plumb.toml names");
  CLI::App* list = add_command(*group, "list", "list arrays, with their room and what they can do",
                               "plumb array list");
  list->add_flag("--json", args.json, "print JSON");
  list->callback([&] { action = [&args] { return list_arrays(args.json); }; });

  CLI::App* check = add_command(*group, "check", "whether arrays answer and are well",
                                "plumb array check    (exit code 14: one is not)");
  check->add_option("name", args.array, "name of an array; without it, all");
  check->callback([&] { action = [&args] { return check_arrays(args.array); }; });
}

void add_template_commands(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* group = app.add_subcommand("template", "machines to make VMs from");
  CLI::App* create = add_command(*group, "create", "make a template of a snapshot",
                                 "plumb template create debian12 --from db1-20261122-190705");
  create->add_option("name", args.make.name, "name of the template")->required();
  create->add_option("--from", args.make.snapshot, "id of the snapshot")->required();
  create->add_option("--vm", args.make.vm, "which VM of a group's snapshot");
  create->add_option("--note", args.make.note, "a text to keep with it");
  create->callback([&] { action = [&args] { return create_template(args.make); }; });

  CLI::App* deploy =
      add_command(*group, "deploy", "make a VM: disks of its own, a new identity, its definition",
                  "plumb template deploy debian12 web3 --tap tap3 && plumb run web3.toml");
  deploy->add_option("template", args.deploy.name, "name of the template")->required();
  deploy->add_option("vm", args.deploy.vm, "name of the new VM")->required();
  deploy->add_option("--file", args.deploy.file, "the definition to write (default VM.toml)");
  deploy->add_option("--tap", args.deploy.taps, "tap interface, in the order of the template's");
  deploy->callback([&] { action = [&args] { return deploy_template(args.deploy); }; });

  CLI::App* list = add_command(*group, "list", "list templates", "plumb template list");
  list->add_flag("--json", args.json, "print JSON");
  list->callback([&] { action = [&args] { return list_templates(args.json); }; });

  CLI::App* out = add_command(*group, "export", "write a template to one file, or to a pipe",
                              "plumb template export debian12 - | zstd >debian12.zst");
  out->add_option("template", args.id, "name of the template")->required();
  out->add_option("file", args.file, "file to make, or - for standard output")->required();
  out->callback([&] { action = [&args] { return export_template(args.id, args.file); }; });

  CLI::App* in = add_command(*group, "import", "take in a template that was exported",
                             "plumb template import debian12.template debian12 --folder /srv");
  in->add_option("file", args.import.file, "file, or - for standard input")->required();
  in->add_option("name", args.import.name, "its name here")->required();
  in->add_option("--array", args.import.array, "array of plumb.toml that its disks go to");
  in->add_option("--folder", args.import.folder, "or a folder where reflinks work");
  in->callback([&] { action = [&args] { return import_template(args.import); }; });

  CLI::App* remove = add_command(*group, "delete", "delete templates; VMs made of them go on",
                                 "plumb template delete debian12");
  remove->add_option("names", args.ids, "the templates' names")->required();
  remove->callback([&] { action = [&args] { return delete_templates(args.ids); }; });
}

// The same as `template deploy`, as one creates VMs.
void add_create_vm(CLI::App& app, Arguments& args, Action& action) {
  CLI::App* create =
      add_command(app, "create", "make a VM of a template, as `plumb template deploy` does",
                  "plumb create web3 --from-template debian12 --tap tap3 && plumb run web3.toml");
  create->add_option("name", args.deploy.vm, "name of the new VM")->required();
  create->add_option("--from-template", args.deploy.name, "name of the template")->required();
  create->add_option("--file", args.deploy.file, "the definition to write (default NAME.toml)");
  create->add_option("--tap", args.deploy.taps, "tap interface, in the order of the template's");
  create->callback([&] { action = [&args] { return deploy_template(args.deploy); }; });
}

void add_disk_commands(CLI::App& app, Arguments& args, Action& action) {
  ArrayDiskOptions& options = args.disk;
  CLI::App* group = app.add_subcommand("disk", "disks made in an array");
  CLI::App* create = add_command(
      *group, "create", "make a disk in an array, and print what a VM's definition says",
      "plumb disk create db1-data 100G --array san1\n"
      "Exit: 14 the array failed, or makes no volumes; nothing is left then.");
  create->add_option("name", options.name, "its name: small letters, digits and '-'")->required();
  create->add_option("size", options.size, "size, e.g. 100G")->required();
  create->add_option("--array", options.array, "array of plumb.toml, or reflink:FOLDER")
      ->required();
  create->add_flag("--json", options.json, "print JSON");
  create->callback([&] { action = [&args] { return create_disk(args.disk); }; });

  CLI::App* remove = add_command(*group, "delete", "delete a disk that plumb made in an array",
                                 "plumb disk delete db1-data --array san1\n"
                                 "Exit: 11 a VM has it, or a snapshot or template needs it.");
  remove->add_option("name", options.name, "its name")->required();
  remove->add_option("--array", options.array, "array of plumb.toml, or reflink:FOLDER")
      ->required();
  remove->callback([&] { action = [&args] { return delete_disk(args.disk); }; });
}

int run(int argc, char** argv) {
  CLI::App app{"plumb snapshot, template, array: copies of VMs' disks, made by what stores them"};
  app.set_version_flag("--version", "plumb " PLUMB_VERSION);
  Arguments arguments;
  Action action;
  add_snapshot_commands(app, arguments, action);
  add_nbd_commands(app, arguments, action);
  add_array_commands(app, arguments, action);
  add_template_commands(app, arguments, action);
  add_create_vm(app, arguments, action);
  add_disk_commands(app, arguments, action);
  return run_command_line(app, {"array", "disk", "nbd", "snapshot", "template"}, action, argc,
                          argv);
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  try {
    std::signal(SIGPIPE, SIG_IGN);
    return plumb::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb: an error nobody expected: {}\n", error.what());
    return plumb::kExitFailed;
  }
}
