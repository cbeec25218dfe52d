// plumb template create, deploy, list, export, import, delete.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/size.h"
#include "base/text.h"
#include "base/uuid.h"
#include "cli/definition.h"
#include "cli/host_config.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/template_commands.h"
#include "snapshot/recovery.h"
#include "snapshot/template_stream.h"
#include "snapshot/templates.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// Where templates are kept, with what was left of earlier commands removed.
struct TemplateRoom {
  SnapshotStore store;
  ArraySet arrays;
  Templates templates() { return {store, arrays}; }

  static Result<TemplateRoom> open() {
    SnapshotStore store = TRY(SnapshotStore::open(template_folder(), "template"));
    ArraySet arrays = TRY(configured_array_set());
    TemplateRoom room{std::move(store), std::move(arrays)};
    for (const Recovered& one : recover(room.store, room.arrays)) {
      fmt::print(stderr, "plumb: {}\n", printable(one.sentence));
    }
    return room;
  }
};

Result<> check_name(const std::string& name) {
  if (is_snapshot_id(name)) return {};
  return usage_error("'{}' cannot be a template's name; use letters, digits, '-' and '_'", name);
}

Result<const SnapshotMember*> member_of(const SnapshotSet& set, const std::string& vm) {
  if (vm.empty() && set.members.size() == 1) return &set.members.front();
  if (const SnapshotMember* member = set.find(vm)) return member;
  if (vm.empty()) {
    return usage_error("snapshot {} is of {} VMs; say which one with --vm", set.id,
                       set.members.size());
  }
  return make_error(ErrorKind::kNotFound, "snapshot {} has no VM '{}'", set.id, vm);
}

// 16 hexadecimal digits that no other disk has.
Result<std::string> new_serial() {
  std::string text = TRY(Uuid::random()).text();
  std::erase(text, '-');
  return text.substr(0, 16);
}

// The template's definition, with an identity and disks of its own.
Result<VmDefinition> new_definition(const Templates::Deployment& deployment,
                                    const TemplateDeployOptions& options) {
  VmDefinition definition = TRY(from_json(deployment.source.definition));
  TRY(set_key(definition, "name", options.vm));
  definition.uuid = TRY(Uuid::random()).text();
  definition.generation_id = TRY(Uuid::random()).text();
  if (options.taps.size() > definition.nets.size()) {
    return usage_error("{} taps are more than the {} network interfaces of the template",
                       options.taps.size(), definition.nets.size());
  }
  for (size_t i = 0; i < definition.nets.size(); ++i) {
    definition.nets[i].mac.clear();  // made of the new name
    if (i < options.taps.size()) definition.nets[i].tap = options.taps[i];
  }
  for (DiskDefinition& disk : definition.disks) {
    for (const Templates::DeployedDisk& deployed : deployment.disks) {
      if (deployed.id != disk.id) continue;
      disk.rdm.clear();
      disk.lun = deployed.volume.wwn;
      disk.image = disk.lun.empty() ? deployed.volume.device : "";
      disk.serial = TRY(new_serial());
    }
  }
  TRY(complete(definition));
  return definition;
}

Result<UniqueFd> open_stream(const std::string& file, bool to_write) {
  if (file != "-") {
    return open_file("file", file, to_write ? O_WRONLY | O_CREAT | O_EXCL : O_RDONLY);
  }
  UniqueFd fd(::fcntl(to_write ? STDOUT_FILENO : STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  if (!fd) return os_error(errno, "standard input or output cannot be used");
  return fd;
}

Result<> write_stream(const SnapshotSet& set, const std::vector<MappedVolume>& disks, int fd,
                      const std::string& name) {
  TemplateWriter writer(fd, name);
  TRY(writer.begin(set_to_json(set)));
  for (size_t i = 0; i < disks.size(); ++i) {
    TRY(writer.disk(static_cast<uint32_t>(i), disks[i].device,
                    set.members.front().disks[i].source.size_bytes));
  }
  return writer.end();
}

}  // namespace

Result<ExitCode> create_template(const TemplateCreateOptions& options) {
  TRY(check_name(options.name));
  TemplateRoom room = TRY(TemplateRoom::open());
  const SnapshotStore snapshots = TRY(SnapshotStore::open(snapshot_folder()));
  const SnapshotSet from = TRY(snapshots.get(options.snapshot));
  const SnapshotMember* member = TRY(member_of(from, options.vm));
  if (member->definition.contains("libvirt")) {
    return usage_error(
        "snapshot {} is of a guest of libvirt, and a template is made of a VM of plumb", from.id);
  }
  TRY(room.templates().create(options.name, from, *member, options.note));
  return kExitOk;
}

// The definition is the commit point: until it is there, a death takes the disks away again.
Result<ExitCode> deploy_template(const TemplateDeployOptions& options) {
  TemplateRoom room = TRY(TemplateRoom::open());
  const std::string file =
      std::filesystem::absolute(options.file.empty() ? options.vm + ".toml" : options.file)
          .string();
  if (::access(file.c_str(), F_OK) == 0) {
    return usage_error("{} is there already; give another --file", file);
  }
  Templates templates = room.templates();
  Templates::Deployment deployment = TRY(templates.deploy(options.name, options.vm, file));
  Result<VmDefinition> definition = new_definition(deployment, options);
  Result<> written = definition ? create_file(file, print_toml(*definition))
                                : Result<>(std::move(definition).error());
  if (!written) {
    static_cast<void>(templates.give_up(deployment));
    return std::move(written).error();
  }
  TRY(deployment.journal.remove());
  if (::isatty(STDOUT_FILENO) != 0) fmt::print("{}\n", file);
  return kExitOk;
}

Result<ExitCode> list_templates(bool json) {
  TemplateRoom room = TRY(TemplateRoom::open());
  const SnapshotStore::Listed listed = room.store.list();
  Json all = Json::array();
  Table table({"TEMPLATE", "OF", "GRADE", "TAKEN", "DISKS", "SIZE", "NOTE"});
  for (const SnapshotSet& set : listed.sets) {
    all.push_back(set_to_json(set));
    const SnapshotMember& member = set.members.front();
    uint64_t size_bytes = 0;
    for (const SnapshotDisk& disk : member.disks) size_bytes += disk.source.size_bytes;
    table.add({set.id, member.vm, name_of(member.grade), set.taken_at,
               std::to_string(member.disks.size()), format_size(size_bytes), set.note});
  }
  if (json) print_json(all);
  if (!json) table.print();
  for (const std::string& one : listed.problems) {
    fmt::print(stderr, "plumb: {}\n", printable(one));
  }
  return listed.problems.empty() ? kExitOk : kExitWeaker;
}

Result<ExitCode> export_template(const std::string& name, const std::string& file) {
  if (file == "-" && ::isatty(STDOUT_FILENO) != 0) {
    return usage_error("a template is not for a terminal; write it to a file or a pipe");
  }
  TemplateRoom room = TRY(TemplateRoom::open());
  const SnapshotSet set = TRY(room.store.get(name));
  const UniqueFd fd = TRY(open_stream(file, true));
  Templates templates = room.templates();
  const std::vector<MappedVolume> disks = TRY(templates.map(set.members.front()));
  Result<> written = write_stream(set, disks, fd.get(), file);
  Result<> unmapped = templates.unmap(set.members.front());
  if (written && file != "-" && ::fsync(fd.get()) != 0) {
    written = os_error(errno, "{} cannot be made durable", file);
  }
  if (!written && file != "-") ::unlink(file.c_str());
  TRY(std::move(written));
  TRY(std::move(unmapped));
  return kExitOk;
}

Result<ExitCode> import_template(const TemplateImportOptions& options) {
  TRY(check_name(options.name));
  if (options.array.empty() == options.folder.empty()) {
    return usage_error("say where the disks go: --array NAME or --folder FOLDER");
  }
  TemplateRoom room = TRY(TemplateRoom::open());
  const UniqueFd fd = TRY(open_stream(options.file, false));
  TemplateReader reader(fd.get(), options.file);
  SnapshotSet set = TRY(set_from_json(TRY(reader.begin()), options.file));
  if (set.members.size() != 1) return failed("{} is of several VMs", options.file);
  set.id = options.name;
  const std::vector<SnapshotDisk> disks = set.members.front().disks;
  const std::string array =
      options.array.empty()
          ? "reflink:" + std::filesystem::absolute(options.folder).lexically_normal().string()
          : options.array;
  const auto fill = [&](size_t disk, const std::string& path) -> Result<> {
    TRY(reader.disk(static_cast<uint32_t>(disk), path, disks[disk].source.size_bytes));
    // With the last one the stream has to end.
    return disk + 1 == disks.size() ? reader.end() : Result<>();
  };
  TRY(room.templates().import(std::move(set), array, fill));
  return kExitOk;
}

Result<ExitCode> delete_templates(const std::vector<std::string>& names) {
  TemplateRoom room = TRY(TemplateRoom::open());
  for (const std::string& name : names) TRY(room.templates().remove(name));
  return kExitOk;
}

}  // namespace plumb
