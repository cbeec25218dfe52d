#include "snapshot/revert_journal.h"

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/uuid.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr const char* kKey = "revert";
constexpr size_t kMaxJournalBytes = size_t{16} << 20U;

Json to_json(const RevertJournal::Disk& disk) {
  return {{"vm", disk.vm},
          {"id", disk.id},
          {"identity", disk.identity},
          {"array", disk.array},
          {"volume_id", disk.volume_id},
          {"snapshot_id", disk.snapshot_id},
          {"kept_id", disk.kept_id}};
}

RevertJournal::Disk disk_from(const Json& json) {
  return {.vm = json.at("vm"),
          .id = json.at("id"),
          .identity = json.at("identity"),
          .array = json.at("array"),
          .volume_id = json.at("volume_id"),
          .snapshot_id = json.at("snapshot_id"),
          .kept_id = json.at("kept_id")};
}

Result<RevertJournal> parse(const Json& json) {
  RevertJournal journal;
  journal.to = json.at("to");
  journal.kept = json.at("kept");
  for (const Json& one : json.at("vms")) {
    RevertJournal::Vm& vm = journal.vms.emplace_back();
    vm.name = one.at("vm");
    vm.uuid = TRY(Uuid::parse(one.at("uuid").get<std::string>())).text();
    vm.generation = TRY(generation_from_json(one.at("generation"), "in it"));
  }
  for (const Json& one : json.at("disks")) journal.disks.push_back(disk_from(one));
  if (journal.vms.empty() || journal.disks.empty()) return failed("it is of no VM or no disk");
  return journal;
}

}  // namespace

std::string disk_identity(const std::string& image, const std::string& wwn) {
  if (image.empty()) return wwn;
  std::error_code error;
  const std::string path = std::filesystem::weakly_canonical(image, error).string();
  return error ? image : path;
}

Json revert_to_json(const RevertJournal& journal) {
  Json vms = Json::array();
  Json names = Json::array();
  for (const RevertJournal::Vm& vm : journal.vms) {
    names.push_back(vm.name);
    vms.push_back(
        {{"vm", vm.name}, {"uuid", vm.uuid}, {"generation", generation_to_json(vm.generation)}});
  }
  Json disks = Json::array();
  for (const RevertJournal::Disk& disk : journal.disks) disks.push_back(to_json(disk));
  return {{"vms", names},
          {kKey, {{"to", journal.to}, {"kept", journal.kept}, {"vms", vms}, {"disks", disks}}}};
}

bool is_revert(const Json& journal) { return journal.is_object() && journal.contains(kKey); }

Result<RevertJournal> revert_from_json(const Json& json, std::string_view file) {
  const auto broken = [&](std::string_view why) {
    return failed("journal {} of a revert cannot be used: {}", file, why);
  };
  try {
    Result<RevertJournal> journal = parse(json.at(kKey));
    return journal ? std::move(journal) : broken(journal.error().message);
  } catch (const Json::exception& error) {
    return broken(error.what());
  }
}

Result<std::vector<RevertJournal>> unfinished_reverts(const std::string& folder) {
  std::vector<RevertJournal> all;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string path = it->path().string();
    Result<std::string> text = read_file(path, kMaxJournalBytes);
    if (!text && text.error().os_errno == ENOENT) continue;  // it has just been finished
    if (!text) return std::move(text).error();
    // One that is being written was not yet followed by anything.
    const Json json = Json::parse(*text, nullptr, false);
    if (is_revert(json)) all.push_back(TRY(revert_from_json(json, path)));
  }
  if (!error || error == std::errc::no_such_file_or_directory) return all;
  return os_error(error.value(), "folder {} cannot be read", folder);
}

Result<> check_not_reverting(const std::string& folder, const std::string& identity,
                             const std::string& label) {
  for (const RevertJournal& journal : TRY(unfinished_reverts(folder))) {
    for (const RevertJournal::Disk& disk : journal.disks) {
      if (disk.identity != identity) continue;
      return make_error(ErrorKind::kLocked,
                        "{} is being put back to snapshot {}, or that was cut short; `plumb "
                        "snapshot recover` finishes it",
                        label, journal.to);
    }
  }
  return {};
}

}  // namespace plumb
