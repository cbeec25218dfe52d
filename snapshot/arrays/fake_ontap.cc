#include "snapshot/arrays/fake_ontap.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "snapshot/arrays/ontap_answer.h"
#include "tests/fakes/strict_request.h"

namespace plumb {
namespace {

constexpr const char* kSvm = "svm1";
constexpr const char* kIgroup = "host1";
constexpr uint64_t kVolumeBytes = uint64_t{1} << 30U;

// The UUIDs of a path that fits, or nothing.
std::optional<std::vector<std::string>> fit(const std::string& shape, const std::string& path) {
  std::vector<std::string> ids;
  size_t at = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape.compare(i, 2, "{}") == 0) {
      const std::string id = path.substr(std::min(at, path.size()), 36);
      if (!is_ontap_uuid(id)) return std::nullopt;
      ids.push_back(id);
      at += 36;
      ++i;
    } else if (at >= path.size() || path[at++] != shape[i]) {
      return std::nullopt;
    }
  }
  return at == path.size() ? std::optional(ids) : std::nullopt;
}

std::string text(const nlohmann::json& body, const char* pointer) {
  return body.value(nlohmann::json::json_pointer(pointer), "");
}

}  // namespace

const std::vector<FakeOntap::Route>& FakeOntap::routes() {
  using F = FakeOntap;
  static const std::set<std::string> list = {"svm.name", "name", "fields", "max_records", "start"};
  static const std::vector<Route> all = {
      {"GET", "/api/storage/luns", list, {}, &F::list_luns},
      {"GET", "/api/storage/luns/{}", {"fields"}, {}, &F::get_lun},
      {"POST",
       "/api/storage/luns",
       {"return_records"},
       {"svm.name", "name", "os_type", "comment", "space.size", "space.guarantee.requested",
        "clone.source.name", "clone.source.uuid"},
       &F::post_lun},
      {"PATCH",
       "/api/storage/luns/{}",
       {},
       {"comment", "clone.source.name", "clone.source.uuid"},
       &F::patch_lun},
      {"DELETE", "/api/storage/luns/{}", {"allow_delete_while_mapped"}, {}, &F::delete_lun},
      {"GET", "/api/protocols/san/igroups", list, {}, &F::list_igroups},
      {"POST",
       "/api/protocols/san/lun-maps",
       {"return_records"},
       {"svm.name", "lun.name", "igroup.name", "logical_unit_number"},
       &F::post_map},
      {"DELETE", "/api/protocols/san/lun-maps/{}/{}", {}, {}, &F::delete_map},
      {"GET", "/api/storage/volumes", list, {}, &F::list_volumes},
      {"GET", "/api/storage/volumes/{}/snapshots", list, {}, &F::list_snapshots},
      {"POST",
       "/api/storage/volumes/{}/snapshots",
       {"return_timeout", "return_records"},
       {"name", "comment", "expiry_time", "snapmirror_label"},
       &F::post_snapshot},
      {"DELETE",
       "/api/storage/volumes/{}/snapshots/{}",
       {"return_timeout"},
       {},
       &F::delete_snapshot},
      {"GET", "/api/application/consistency-groups", list, {}, &F::list_groups},
      {"GET",
       "/api/application/consistency-groups/{}/snapshots",
       list,
       {},
       &F::list_group_snapshots},
      {"POST",
       "/api/application/consistency-groups/{}/snapshots",
       {"action", "action_timeout", "return_timeout", "return_records"},
       {"name", "comment", "consistency_type", "snapmirror_label"},
       &F::post_group_snapshot},
      {"PATCH",
       "/api/application/consistency-groups/{}/snapshots/{}",
       {"action", "return_timeout"},
       {},
       &F::patch_group_snapshot},
      {"DELETE",
       "/api/application/consistency-groups/{}/snapshots/{}",
       {"return_timeout"},
       {},
       &F::delete_group_snapshot},
      {"GET", "/api/cluster/jobs/{}", {"fields"}, {}, &F::get_job},
  };
  return all;
}

FakeOntap::FakeOntap() : server_([this](const ServedRequest& request) { return answer(request); }) {
  for (const char* name : {"vol1", "vol2", "other"}) volumes_[name] = new_uuid();
  igroup_uuid_ = new_uuid();
  std::ofstream(files_.path() + "/password") << kPassword << "\n";
  ::chmod((files_.path() + "/password").c_str(), 0600);
}

FakeOntap::~FakeOntap() = default;

OntapConfig FakeOntap::config() const {
  return {.name = "netapp",
          .address = "127.0.0.1",
          .port = server_.port(),
          .ca_file = server_.ca_file(),
          .user = kUser,
          .password_file = files_.path() + "/password",
          .svm = kSvm,
          .volumes = {"vol1", "vol2"},
          .igroup = kIgroup};
}

HostLuns FakeOntap::host() const {
  return HostLuns({.roots = sysfs_.roots(), .appear_timeout_ms = 1000, .settle_ms = 0});
}

void FakeOntap::set_mood(const Mood& mood) {
  const auto held = server_.hold();
  mood_ = mood;
}

std::vector<std::string> FakeOntap::strays() const {
  const auto held = server_.hold();
  return strays_;
}

std::string FakeOntap::add_lun(const std::string& path, uint64_t size_bytes) {
  const auto held = server_.hold();
  const std::string uuid = new_uuid();
  luns_.push_back({uuid,
                   path,
                   fmt::format("wf0Iq+N4u{:03}", last_number_),
                   "linux",
                   "the administrator's",
                   {igroup_uuid_}});
  std::ofstream(file_of(luns_.back())).close();
  std::filesystem::resize_file(file_of(luns_.back()), size_bytes);
  show(luns_.back());
  return ontap_wwn(luns_.back().serial);
}

std::string FakeOntap::device_of(const std::string& wwn) const {
  const auto held = server_.hold();
  const auto lun = std::ranges::find_if(
      luns_, [&wwn](const FakeLun& one) { return ontap_wwn(one.serial) == wwn; });
  return sysfs_.roots().dev + "/" + device_name(*lun);
}

void FakeOntap::add_group(const std::string& name, const std::vector<std::string>& volumes) {
  const auto held = server_.hold();
  groups_[new_uuid()] = {name, volumes};
}

std::vector<std::string> FakeOntap::lun_paths() const {
  const auto held = server_.hold();
  std::vector<std::string> paths;
  for (const FakeLun& lun : luns_) paths.push_back(lun.path);
  return paths;
}

std::string FakeOntap::comment_of(const std::string& path) const {
  const auto held = server_.hold();
  const auto lun = std::ranges::find(luns_, path, &FakeLun::path);
  return lun == luns_.end() ? "no such LUN" : lun->comment;
}

std::vector<std::string> FakeOntap::snapshot_names() const {
  const auto held = server_.hold();
  std::vector<std::string> names;
  for (const auto& [of, all] : snapshots_) {
    for (const FakeSnapshot& one : all) names.push_back(one.name);
  }
  return names;
}

// ---- what every request goes through ------------------------------------------------------------

ServedAnswer FakeOntap::answer(const ServedRequest& request) {
  if (request.header("authorization") != basic_authorization(kUser, mood_.password)) {
    return refuse(401, "not authorized");
  }
  for (const Route& route : routes()) {
    const auto ids = fit(route.path, request.path);
    if (!ids || request.method != route.method) continue;
    const std::string query = first_unknown(query_names(request), route.query);
    if (!query.empty()) return stray(request, "unknown query " + query);
    const Json body = request.body.empty() ? Json::object() : Json::parse(request.body);
    const std::string field = first_unknown(member_names(body), route.body);
    if (!field.empty()) return stray(request, "unknown field " + field);
    if (!request.body.empty() && request.header("content-type") != "application/json") {
      return stray(request, "a body of another type");
    }
    if (request.query.contains("svm.name") && request.query.at("svm.name") != kSvm) {
      return page(request, {});
    }
    return (this->*route.handler)(request, *ids);
  }
  return stray(request, "unknown path");
}

ServedAnswer FakeOntap::stray(const ServedRequest& request, const std::string& why) {
  strays_.push_back(request.method + " " + request.path + ": " + why);
  return refuse(400, why);
}

ServedAnswer FakeOntap::refuse(unsigned status, const std::string& message) const {
  const Json body = {{"error", {{"message", message}, {"code", "917505"}}}};
  return {status, body.dump(), {}};
}

ServedAnswer FakeOntap::done(unsigned status, const Json& body) {
  if (!mood_.jobs) return {status, body.dump(), {}};
  const std::string job = new_uuid();
  job_looks_[job] = 0;
  return {202, Json({{"job", {{"uuid", job}}}}).dump(), {}};
}

// Lists come in pieces, as long ones do.
ServedAnswer FakeOntap::page(const ServedRequest& request, std::vector<Json> records) {
  if (request.query.contains("name")) {
    std::erase_if(records,
                  [&](const Json& one) { return one.at("name") != request.query.at("name"); });
  }
  const size_t start = request.query.contains("start") ? std::stoul(request.query.at("start")) : 0;
  Json body = {{"records", Json::array()}};
  for (size_t i = start; i < std::min(records.size(), start + mood_.page_records); ++i) {
    body["records"].push_back(records[i]);
  }
  body["num_records"] = body["records"].size();
  if (start + mood_.page_records < records.size()) {
    std::string next = request.path + "?start=" + std::to_string(start + mood_.page_records);
    for (const auto& [name, value] : request.query) {
      if (name != "start") next += "&" + name + "=" + percent_encoded(value);
    }
    body["_links"]["next"]["href"] = next;
  }
  return {200, body.dump(), {}};
}

// ---- LUNs ---------------------------------------------------------------------------------------

std::string FakeOntap::new_uuid() {
  return fmt::format("5a24ae5b-28af-47fb-b129-{:012x}", ++last_number_);
}

FakeOntap::FakeLun* FakeOntap::lun_with(const std::string& uuid) {
  const auto found = std::ranges::find(luns_, uuid, &FakeLun::uuid);
  return found == luns_.end() ? nullptr : &*found;
}

FakeOntap::FakeLun* FakeOntap::lun_at(const std::string& path) {
  const auto found = std::ranges::find(luns_, path, &FakeLun::path);
  return found == luns_.end() ? nullptr : &*found;
}

std::string FakeOntap::volume_of(const std::string& path) const {
  if (!path.starts_with("/vol/")) return "";
  const std::string name = path.substr(5, path.find('/', 5) - 5);
  return volumes_.contains(name) ? name : "";
}

std::string FakeOntap::content_of(const std::string& path) {
  const size_t in_snapshot = path.find("/.snapshot/");
  if (in_snapshot == std::string::npos) {
    const FakeLun* lun = lun_at(path);
    return lun == nullptr ? "" : file_of(*lun);
  }
  const size_t name = in_snapshot + std::string("/.snapshot/").size();
  const size_t end = path.find('/', name);
  const FakeLun* lun = lun_at(path.substr(0, in_snapshot) + path.substr(end));
  for (const FakeSnapshot& one : snapshots_[volumes_.at(volume_of(path))]) {
    if (lun == nullptr || one.started || one.name != path.substr(name, end - name)) continue;
    const std::string kept = files_.path() + "/" + one.uuid + "@" + lun->uuid;
    return std::filesystem::exists(kept) ? kept : "";
  }
  return "";
}

FakeOntap::Json FakeOntap::describe(const FakeLun& lun, bool maps) const {
  const std::string volume = volume_of(lun.path);
  Json record = {{"uuid", lun.uuid},
                 {"name", lun.path},
                 {"serial_number", lun.serial},
                 {"os_type", lun.os_type},
                 {"comment", lun.comment},
                 {"space", {{"size", std::filesystem::file_size(file_of(lun))}}},
                 {"location", {{"volume", {{"uuid", volumes_.at(volume)}, {"name", volume}}}}}};
  if (lun.comment.empty()) record.erase("comment");
  if (!maps || lun.igroups.empty()) return record;
  for (const std::string& igroup : lun.igroups) {
    record["lun_maps"].push_back({{"igroup", {{"uuid", igroup}, {"name", kIgroup}}}});
  }
  return record;
}

ServedAnswer FakeOntap::list_luns(const ServedRequest& request, const Ids&) {
  std::vector<Json> records;
  for (const FakeLun& lun : luns_) records.push_back(describe(lun, false));
  return page(request, records);
}

ServedAnswer FakeOntap::get_lun(const ServedRequest& request, const Ids& ids) {
  const FakeLun* lun = lun_with(ids[0]);
  if (lun == nullptr) return refuse(404, "entry doesn't exist");
  const bool maps = request.query.at("fields").find("lun_maps") != std::string::npos;
  return {200, describe(*lun, maps).dump(), {}};
}

ServedAnswer FakeOntap::post_lun(const ServedRequest& request, const Ids&) {
  const Json body = Json::parse(request.body);
  const std::string path = text(body, "/name");
  const std::string source = text(body, "/clone/source/name");
  if (text(body, "/svm/name") != kSvm || volume_of(path).empty()) return stray(request, "no place");
  if (lun_at(path) != nullptr) return refuse(409, "LUN already exists at this path");
  if (mood_.full) return refuse(500, "No space left on the aggregate");
  if (source.empty() == text(body, "/os_type").empty()) return stray(request, "os_type");
  if (text(body, "/comment").size() > 254) return stray(request, "a comment that is too long");
  FakeLun lun{new_uuid(),
              path,
              fmt::format("wf0Iq+N4u{:03}", last_number_),
              text(body, "/os_type"),
              text(body, "/comment"),
              {}};
  if (source.empty()) {
    std::ofstream(file_of(lun)).close();
    std::filesystem::resize_file(file_of(lun), body.at("space").at("size").get<uint64_t>());
  } else {
    const std::string content = content_of(source);
    if (content.empty()) return refuse(404, "the clone's source is not there");
    if (volume_of(source) != volume_of(path)) return stray(request, "a clone in another volume");
    std::filesystem::copy_file(content, file_of(lun));
    lun.os_type = "linux";
  }
  luns_.push_back(lun);
  return done(201);
}

// As the reference says, a clone keeps uuid, serial number and maps of the LUN that it overwrites.
ServedAnswer FakeOntap::patch_lun(const ServedRequest& request, const Ids& ids) {
  const Json body = Json::parse(request.body);
  FakeLun* lun = lun_with(ids[0]);
  if (lun == nullptr) return refuse(404, "entry doesn't exist");
  const std::string source = text(body, "/clone/source/name");
  if (!source.empty()) {
    const std::string content = content_of(source);
    if (content.empty()) return refuse(404, "the clone's source is not there");
    if (volume_of(source) != volume_of(lun->path)) return stray(request, "of another volume");
    // In place: who has the device open reads the new content.
    std::ifstream from(content, std::ios::binary);
    std::fstream to(file_of(*lun), std::ios::binary | std::ios::in | std::ios::out);
    to << from.rdbuf();
    const FakeLun* live = lun_at(source);
    lun->comment = live == nullptr ? "" : live->comment;
  }
  if (body.contains("comment")) lun->comment = text(body, "/comment");
  return done(200);
}

ServedAnswer FakeOntap::delete_lun(const ServedRequest&, const Ids& ids) {
  FakeLun* lun = lun_with(ids[0]);
  if (lun == nullptr) return refuse(404, "entry doesn't exist");
  if (!lun->igroups.empty()) return refuse(409, "LUN is mapped");
  std::filesystem::remove(file_of(*lun));
  std::erase_if(luns_, [&ids](const FakeLun& one) { return one.uuid == ids[0]; });
  return done(200);
}

// ---- maps ---------------------------------------------------------------------------------------

std::string FakeOntap::device_name(const FakeLun& lun) const { return "sd" + lun.uuid.substr(30); }

void FakeOntap::show(const FakeLun& lun) {
  const std::string name = device_name(lun);
  sysfs_.add_scsi(name, fmt::format("8:{}", std::stoul(lun.uuid.substr(30), nullptr, 16)),
                  ontap_wwn(lun.serial));
  sysfs_.write("sys/block/" + name + "/size",
               std::to_string(std::filesystem::file_size(file_of(lun)) / 512));
  sysfs_.write("sys/block/" + name + "/device/delete", "");
  std::filesystem::create_symlink(file_of(lun), sysfs_.roots().dev + "/" + name);
}

void FakeOntap::hide(const FakeLun& lun) {
  std::filesystem::remove_all(sysfs_.roots().sys + "/block/" + device_name(lun));
  std::filesystem::remove(sysfs_.roots().dev + "/" + device_name(lun));
}

ServedAnswer FakeOntap::list_igroups(const ServedRequest& request, const Ids&) {
  return page(request, {{{"uuid", igroup_uuid_}, {"name", kIgroup}}});
}

ServedAnswer FakeOntap::post_map(const ServedRequest& request, const Ids&) {
  const Json body = Json::parse(request.body);
  FakeLun* lun = lun_at(text(body, "/lun/name"));
  if (lun == nullptr || text(body, "/igroup/name") != kIgroup) return refuse(404, "no such LUN");
  if (!lun->igroups.insert(igroup_uuid_).second) return refuse(409, "LUN already mapped");
  show(*lun);
  return done(201);
}

ServedAnswer FakeOntap::delete_map(const ServedRequest& request, const Ids& ids) {
  FakeLun* lun = lun_with(ids[0]);
  if (lun == nullptr || lun->igroups.erase(ids[1]) == 0) return refuse(404, "no such map");
  std::ifstream deleted(sysfs_.roots().sys + "/block/" + device_name(*lun) + "/device/delete");
  if (deleted.get() != '1') return stray(request, "the host still has its device");
  hide(*lun);
  return done(200);
}

// ---- volumes, groups and their snapshots --------------------------------------------------------

ServedAnswer FakeOntap::list_volumes(const ServedRequest& request, const Ids&) {
  std::vector<Json> records;
  for (const auto& [name, uuid] : volumes_) {
    records.push_back(
        {{"uuid", uuid},
         {"name", name},
         {"state", "online"},
         {"space", {{"size", kVolumeBytes}, {"available", mood_.full ? 0 : kVolumeBytes / 2}}}});
  }
  return page(request, records);
}

void FakeOntap::keep(const FakeSnapshot& snapshot, const std::string& volume) {
  snapshots_[volumes_.at(volume)].push_back(snapshot);
  for (const FakeLun& lun : luns_) {
    if (volume_of(lun.path) != volume) continue;
    std::filesystem::copy_file(file_of(lun), files_.path() + "/" + snapshot.uuid + "@" + lun.uuid);
  }
}

void FakeOntap::drop(const std::string& snapshot_uuid, const std::string& volume) {
  std::erase_if(snapshots_[volumes_.at(volume)], [&](const FakeSnapshot& one) {
    return one.uuid == snapshot_uuid || one.group == snapshot_uuid;
  });
}

ServedAnswer FakeOntap::list_snapshots(const ServedRequest& request, const Ids& ids) {
  std::vector<Json> records;
  for (const FakeSnapshot& one : snapshots_[ids[0]]) {
    records.push_back({{"uuid", one.uuid}, {"name", one.name}, {"comment", one.comment}});
  }
  return page(request, records);
}

ServedAnswer FakeOntap::post_snapshot(const ServedRequest& request, const Ids& ids) {
  const Json body = Json::parse(request.body);
  if (mood_.full) return refuse(500, "No space left on device");
  for (const auto& [name, uuid] : volumes_) {
    if (uuid != ids[0]) continue;
    for (const FakeSnapshot& one : snapshots_[uuid]) {
      if (one.name == text(body, "/name")) return refuse(409, "snapshot already exists");
    }
    if (!mood_.jobs_fail) keep({new_uuid(), text(body, "/name"), text(body, "/comment"), ""}, name);
    return done(201);
  }
  return refuse(404, "no such volume");
}

ServedAnswer FakeOntap::delete_snapshot(const ServedRequest&, const Ids& ids) {
  const size_t before = snapshots_[ids[0]].size();
  for (const auto& [name, uuid] : volumes_) {
    if (uuid == ids[0]) drop(ids[1], name);
  }
  return snapshots_[ids[0]].size() < before ? done(200) : refuse(404, "no such snapshot");
}

ServedAnswer FakeOntap::list_groups(const ServedRequest& request, const Ids&) {
  std::vector<Json> records;
  for (const auto& [uuid, group] : groups_) {
    Json record = {{"uuid", uuid}, {"name", group.first}, {"volumes", Json::array()}};
    for (const std::string& volume : group.second) {
      record["volumes"].push_back({{"uuid", volumes_.at(volume)}, {"name", volume}});
    }
    records.push_back(record);
  }
  return page(request, records);
}

ServedAnswer FakeOntap::list_group_snapshots(const ServedRequest& request, const Ids& ids) {
  if (!groups_.contains(ids[0])) return refuse(404, "no such group");
  return list_snapshots(request, ids);
}

ServedAnswer FakeOntap::post_group_snapshot(const ServedRequest& request, const Ids& ids) {
  if (!groups_.contains(ids[0])) return refuse(404, "no such group");
  const Json body = Json::parse(request.body);
  if (mood_.full) return refuse(500, "No space left on device");
  if (request.query.count("action") == 0 || request.query.at("action") != "start") {
    return stray(request, "no two-phase snapshot");
  }
  const unsigned long seconds = std::stoul(request.query.at("action_timeout"));
  if (seconds < 5 || seconds > 90) return stray(request, "action_timeout");
  for (const FakeSnapshot& one : snapshots_[ids[0]]) {
    if (one.name == text(body, "/name")) return refuse(409, "snapshot already exists");
  }
  const std::string uuid = new_uuid();
  snapshots_[ids[0]].push_back({uuid, text(body, "/name"), text(body, "/comment"), "", true});
  return done(201, {{"num_records", 1}, {"records", {{{"uuid", uuid}}}}});
}

ServedAnswer FakeOntap::patch_group_snapshot(const ServedRequest& request, const Ids& ids) {
  if (request.query.count("action") == 0 || request.query.at("action") != "commit") {
    return stray(request, "nothing to commit");
  }
  for (FakeSnapshot& one : snapshots_[ids[0]]) {
    if (one.uuid != ids[1] || !one.started) continue;
    one.started = false;
    for (const std::string& volume : groups_.at(ids[0]).second) {
      keep({new_uuid(), one.name, one.comment, one.uuid}, volume);
    }
    return done(200);
  }
  return refuse(404, "no snapshot was started");
}

ServedAnswer FakeOntap::delete_group_snapshot(const ServedRequest&, const Ids& ids) {
  const size_t gone = std::erase_if(snapshots_[ids[0]],
                                    [&ids](const FakeSnapshot& one) { return one.uuid == ids[1]; });
  if (gone == 0) return refuse(404, "no such snapshot");
  for (const std::string& volume : groups_.at(ids[0]).second) drop(ids[1], volume);
  return done(200);
}

// A job runs at the first look, and has ended at the second.
ServedAnswer FakeOntap::get_job(const ServedRequest&, const Ids& ids) {
  const auto job = job_looks_.find(ids[0]);
  if (job == job_looks_.end()) return refuse(404, "no such job");
  Json body = {{"uuid", ids[0]}, {"state", "running"}, {"message", "working"}};
  if (mood_.jobs_hang || ++job->second < 2) return {200, body.dump(), {}};
  body["state"] = mood_.jobs_fail ? "failure" : "success";
  if (mood_.jobs_fail) body["error"] = {{"message", "the job met a bad disk"}};
  return {200, body.dump(), {}};
}

}  // namespace plumb
