#include "snapshot/arrays/fake_hitachi.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/https_client.h"
#include "tests/fakes/strict_request.h"

namespace plumb {
namespace {

constexpr const char* kRoot = "/ConfigurationManager/v1/objects";
constexpr const char* kPort = "CL1-A";
constexpr uint64_t kGroup = 3;
constexpr uint64_t kPool = 13;
constexpr uint64_t kFirstFree = 1000;

std::string naa_of(uint64_t number) {
  return fmt::format("60060e8007c3c3000030c3c30000{:04x}", number);
}

// What stands in the path for each "{}", which has no '/' and no ','; nothing when it does not fit.
std::optional<std::vector<std::string>> fit(const std::string& shape, const std::string& path) {
  std::vector<std::string> words;
  size_t at = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape.compare(i, 2, "{}") == 0) {
      const size_t end = std::min(path.find_first_of("/,", at), path.size());
      if (end <= at) return std::nullopt;
      words.push_back(path.substr(at, end - at));
      at = end;
      ++i;
    } else if (at >= path.size() || path[at++] != shape[i]) {
      return std::nullopt;
    }
  }
  return at == path.size() ? std::optional(words) : std::nullopt;
}

}  // namespace

const std::vector<FakeHitachi::Route>& FakeHitachi::routes() {
  using F = FakeHitachi;
  static const std::vector<Route> all = {
      {"DELETE", "/sessions/{}", {}, {"force"}, &F::delete_session},
      {"GET", "/jobs/{}", {}, {}, &F::get_job},
      {"GET", "/ldevs", {"ldevOption", "count", "headLdevId"}, {}, &F::list_ldevs},
      {"GET", "/ldevs/{}", {}, {}, &F::get_ldev},
      {"POST",
       "/ldevs",
       {},
       {"ldevId", "poolId", "blockCapacity", "byteFormatCapacity", "dataReductionMode"},
       &F::post_ldev},
      {"PATCH", "/ldevs/{}", {}, {"label"}, &F::patch_ldev},
      {"DELETE", "/ldevs/{}", {}, {"isDataReductionDeleteForceExecute"}, &F::delete_ldev},
      {"POST", "/luns", {}, {"portId", "hostGroupNumber", "ldevId", "lun"}, &F::post_lun},
      {"DELETE", "/luns/{},{},{}", {}, {}, &F::delete_lun},
      {"GET",
       "/snapshots",
       {"snapshotGroupName", "pvolLdevId", "svolLdevId", "muNumber"},
       {},
       &F::list_pairs},
      {"POST",
       "/snapshots",
       {},
       {"snapshotGroupName", "snapshotPoolId", "pvolLdevId", "svolLdevId", "isConsistencyGroup",
        "autoSplit", "canCascade", "isClone", "clonesAutomation", "copySpeed",
        "isDataReductionForceCopy"},
       &F::post_pair},
      {"DELETE", "/snapshots/{},{}", {}, {}, &F::delete_pair},
      {"POST",
       "/snapshots/{},{}/actions/restore/invoke",
       {},
       {"parameters.autoSplit"},
       &F::restore_pair},
      {"POST", "/snapshot-groups/{}/actions/split/invoke", {}, {}, &F::split_group},
      {"GET", "/local-clone-copypairs", {"localCloneCopyGroupId", "refresh"}, {}, &F::list_mirrors},
      {"POST",
       "/local-clone-copypairs",
       {},
       {"copyGroupName", "copyPairName", "replicationType", "pvolDeviceGroupName",
        "svolDeviceGroupName", "pvolLdevId", "svolLdevId", "pvolMuNumber", "isNewGroupCreation",
        "isConsistencyGroup", "consistencyGroupId", "copyPace", "autoSplit", "quickMode",
        "isDataReductionForceCopy"},
       &F::post_mirror},
      {"DELETE", "/local-clone-copypairs/{},{},{},{}", {}, {}, &F::delete_mirror},
      {"POST",
       "/local-clone-copypairs/{},{},{},{}/actions/restore/invoke",
       {},
       {"parameters.quickMode", "parameters.copyPace"},
       &F::restore_mirror},
      {"POST",
       "/local-clone-copypairs/{},{},{},{}/actions/split/invoke",
       {},
       {"parameters.quickMode", "parameters.copyPace"},
       &F::split_mirror},
      {"POST",
       "/local-clone-copygroups/{},{},{}/actions/split/invoke",
       {},
       {"parameters.quickMode", "parameters.copyPace"},
       &F::split_mirrors},
      {"POST",
       "/local-clone-copygroups/{},{},{}/actions/resync/invoke",
       {},
       {"parameters.quickMode", "parameters.copyPace"},
       &F::resync_mirrors},
      {"GET", "/pools/{}", {}, {}, &F::get_pool},
  };
  return all;
}

FakeHitachi::FakeHitachi()
    : server_([this](const ServedRequest& request) { return answer(request); }) {
  std::ofstream(files_.path() + "/password") << kPassword << "\n";
  ::chmod((files_.path() + "/password").c_str(), 0600);
}

HitachiConfig FakeHitachi::config() const {
  return {.name = "vsp",
          .address = "127.0.0.1",
          .port = server_.port(),
          .ca_file = server_.ca_file(),
          .user = kUser,
          .password_file = files_.path() + "/password",
          .snapshot_pool = kPool,
          .volume_pool = kPool,
          .host_groups = {{kPort, kGroup}},
          .state_path = files_.path() + "/state/vsp.json",
          .copy_timeout_ms = 20'000};
}

HostLuns FakeHitachi::host() const {
  return HostLuns({.roots = sysfs_.roots(), .appear_timeout_ms = 1000, .settle_ms = 0});
}

std::string FakeHitachi::add_ldev(uint64_t number, uint64_t size_bytes) {
  const auto held = server_.hold();
  ldevs_[number] = {"the administrator's", {{kPort, kGroup, ++last_lun_}}};
  std::ofstream(file_of(number)).close();
  std::filesystem::resize_file(file_of(number), size_bytes);
  show(number);
  return "naa." + naa_of(number);
}

std::string FakeHitachi::device_of(uint64_t number) const {
  return sysfs_.roots().dev + "/sd" + std::to_string(number);
}

std::vector<std::string> FakeHitachi::strays() const {
  const auto held = server_.hold();
  return strays_;
}

std::vector<uint64_t> FakeHitachi::ldevs() const {
  const auto held = server_.hold();
  std::vector<uint64_t> numbers;
  for (const auto& [number, ldev] : ldevs_) numbers.push_back(number);
  return numbers;
}

size_t FakeHitachi::pairs() const {
  const auto held = server_.hold();
  return pairs_.size();
}

size_t FakeHitachi::whole_copies() const {
  const auto held = server_.hold();
  return whole_copies_;
}

size_t FakeHitachi::resyncs() const {
  const auto held = server_.hold();
  return resyncs_;
}

size_t FakeHitachi::sessions() const {
  const auto held = server_.hold();
  return tokens_.size();
}

void FakeHitachi::set_label(uint64_t number, const std::string& label) {
  const auto held = server_.hold();
  ldevs_.at(number).label = label;
}

void FakeHitachi::set_mood(const Mood& mood) {
  const auto held = server_.hold();
  mood_ = mood;
}

// ---- what every request goes through ------------------------------------------------------------

ServedAnswer FakeHitachi::answer(const ServedRequest& request) {
  if (request.path == std::string(kRoot) + "/sessions") return post_session(request);
  const std::string authorization = request.header("authorization");
  const std::string token = authorization.substr(std::min<size_t>(8, authorization.size()));
  if (!authorization.starts_with("Session ") || !tokens_.contains(token)) {
    return refuse(401, "The session is not valid.");
  }
  ServedAnswer answer = route(request);
  if (mood_.sessions_end) tokens_.erase(token);
  return answer;
}

ServedAnswer FakeHitachi::route(const ServedRequest& request) {
  for (const Route& one : routes()) {
    const auto words = fit(kRoot + std::string(one.path), request.path);
    if (!words || request.method != one.method) continue;
    const std::string query = first_unknown(query_names(request), one.query);
    if (!query.empty()) return stray(request, "unknown query " + query);
    const Json body = request.body.empty() ? Json::object() : Json::parse(request.body);
    const std::string member = first_unknown(member_names(body), one.body);
    if (!member.empty()) return stray(request, "unknown attribute " + member);
    return (this->*one.handler)(request, *words);
  }
  return stray(request, "unknown path");
}

ServedAnswer FakeHitachi::stray(const ServedRequest& request, const std::string& why) {
  strays_.push_back(request.method + " " + request.path + ": " + why);
  return refuse(400, why);
}

ServedAnswer FakeHitachi::refuse(unsigned status, const std::string& message) const {
  const Json body = {{"errorSource", kRoot},
                     {"messageId", "KART40000-E"},
                     {"message", message},
                     {"cause", "-"},
                     {"errorCode", {{"SSB1", "2E11"}, {"SSB2", "2205"}}}};
  return {status, body.dump(), {}};
}

ServedAnswer FakeHitachi::job(const ServedRequest& request, bool fails) {
  jobs_[++last_job_] = {0, fails};
  const bool waits = request.headers.contains("response-max-wait") && !mood_.slow_jobs;
  if (waits && !mood_.jobs_hang) return get_job(request, {std::to_string(last_job_), ""});
  const Json body = {{"jobId", last_job_}, {"status", "Initializing"}, {"state", "Queued"}};
  return {202, body.dump(), {}};
}

ServedAnswer FakeHitachi::get_job(const ServedRequest&, const Words& words) {
  const auto found = jobs_.find(std::stoul(words[0]));
  if (found == jobs_.end()) return refuse(404, "no such job");
  auto& [looks, fails] = found->second;
  Json body = {{"jobId", found->first}, {"status", "Running"}, {"state", "Started"}};
  const bool at_once = words.size() > 1;  // whoever asked waited
  if (mood_.jobs_hang || (!at_once && ++looks < 2)) return {200, body.dump(), {}};
  body["status"] = "Completed";
  body["state"] = fails ? "Failed" : "Succeeded";
  if (fails) body["error"] = {{"messageId", "KART30000-E"}, {"message", "An error occurred."}};
  return {at_once ? 202U : 200U, body.dump(), {}};
}

ServedAnswer FakeHitachi::post_session(const ServedRequest& request) {
  if (request.header("authorization") != basic_authorization(kUser, mood_.password)) {
    return refuse(401, "The user ID or password is invalid.");
  }
  const std::string token = fmt::format("d7b673af189048468c5af9bcf3bbbb{:02x}", ++last_session_);
  tokens_[token] = last_session_;
  return {200, Json({{"token", token}, {"sessionId", last_session_}}).dump(), {}};
}

ServedAnswer FakeHitachi::delete_session(const ServedRequest&, const Words& words) {
  std::erase_if(tokens_, [&words](const auto& one) { return one.second == std::stoul(words[0]); });
  return {200, "", {}};
}

// ---- LDEVs and their paths ----------------------------------------------------------------------

ServedAnswer FakeHitachi::list_ldevs(const ServedRequest& request, const Words&) {
  if (request.query.at("ldevOption") != "undefined") return stray(request, "ldevOption");
  Json data = Json::array();
  for (uint64_t number = kFirstFree; number < kFirstFree + 50; ++number) {
    if (ldevs_.contains(number)) continue;
    data.push_back({{"ldevId", number}, {"emulationType", "NOT DEFINED"}});
  }
  return {200, Json({{"data", data}}).dump(), {}};
}

ServedAnswer FakeHitachi::get_ldev(const ServedRequest&, const Words& words) {
  const uint64_t number = std::stoul(words[0]);
  const auto found = ldevs_.find(number);
  if (found == ldevs_.end()) {
    return {200, Json({{"ldevId", number}, {"emulationType", "NOT DEFINED"}}).dump(), {}};
  }
  Json body = {{"ldevId", number},
               {"emulationType", "OPEN-V-CVS"},
               {"blockCapacity", std::filesystem::file_size(file_of(number)) / 512},
               {"status", "NML"},
               {"naaId", naa_of(number)}};
  if (!found->second.label.empty()) body["label"] = found->second.label;
  for (const Path& path : found->second.paths) {
    body["ports"].push_back(
        {{"portId", path.port}, {"hostGroupNumber", path.group}, {"lun", path.lun}});
  }
  return {200, body.dump(), {}};
}

ServedAnswer FakeHitachi::post_ldev(const ServedRequest& request, const Words&) {
  const Json body = Json::parse(request.body);
  const uint64_t number = body.at("ldevId");
  if (ldevs_.contains(number)) return refuse(400, "The LDEV is already defined.");
  if (body.at("poolId") != kPool) return refuse(404, "no such pool");
  if (mood_.full) return job(request, true);
  ldevs_[number] = {};
  std::ofstream(file_of(number)).close();
  std::filesystem::resize_file(file_of(number), body.at("blockCapacity").get<uint64_t>() * 512);
  return job(request);
}

ServedAnswer FakeHitachi::patch_ldev(const ServedRequest& request, const Words& words) {
  const auto found = ldevs_.find(std::stoul(words[0]));
  const std::string label = Json::parse(request.body).at("label");
  if (found == ldevs_.end()) return refuse(404, "no such LDEV");
  if (label.size() > 32) return stray(request, "a label that is too long");
  found->second.label = label;
  return job(request);
}

ServedAnswer FakeHitachi::delete_ldev(const ServedRequest& request, const Words& words) {
  const uint64_t number = std::stoul(words[0]);
  const auto found = ldevs_.find(number);
  if (found == ldevs_.end()) return refuse(404, "no such LDEV");
  const bool paired = std::ranges::any_of(pairs_, [number](const Pair& pair) {
    return pair.primary == number || pair.secondary == number;
  });
  if (paired || !found->second.paths.empty()) return stray(request, "an LDEV in use is deleted");
  ldevs_.erase(found);
  std::filesystem::remove(file_of(number));
  return job(request);
}

void FakeHitachi::show(uint64_t number) {
  const std::string name = "sd" + std::to_string(number);
  sysfs_.add_scsi(name, fmt::format("8:{}", number), "naa." + naa_of(number));
  sysfs_.write("sys/block/" + name + "/size",
               std::to_string(std::filesystem::file_size(file_of(number)) / 512));
  sysfs_.write("sys/block/" + name + "/device/delete", "");
  std::filesystem::create_symlink(file_of(number), device_of(number));
}

ServedAnswer FakeHitachi::post_lun(const ServedRequest& request, const Words&) {
  const Json body = Json::parse(request.body);
  const uint64_t number = body.at("ldevId");
  if (!ldevs_.contains(number)) return refuse(404, "no such LDEV");
  if (body.at("portId") != kPort || body.at("hostGroupNumber") != kGroup) {
    return refuse(404, "no such host group");
  }
  if (!ldevs_[number].paths.empty()) return stray(request, "a second path");
  ldevs_[number].paths.push_back({kPort, kGroup, ++last_lun_});
  show(number);
  return job(request);
}

ServedAnswer FakeHitachi::delete_lun(const ServedRequest& request, const Words& words) {
  for (auto& [number, ldev] : ldevs_) {
    const size_t gone = std::erase_if(ldev.paths, [&words](const Path& path) {
      return path.port == words[0] && std::to_string(path.group) == words[1] &&
             std::to_string(path.lun) == words[2];
    });
    if (gone == 0) continue;
    const std::string block = sysfs_.roots().sys + "/block/sd" + std::to_string(number);
    if (std::ifstream(block + "/device/delete").get() != '1') {
      return stray(request, "the host still has its device");
    }
    std::filesystem::remove_all(block);
    std::filesystem::remove(device_of(number));
    return job(request);
  }
  return refuse(404, "no such path");
}

// ---- pairs --------------------------------------------------------------------------------------

// In place: who has the device open reads the new content.
void FakeHitachi::copy(uint64_t from, uint64_t to) const {
  std::ifstream source(file_of(from), std::ios::binary);
  std::fstream target(file_of(to), std::ios::binary | std::ios::in | std::ios::out);
  target << source.rdbuf();
}

FakeHitachi::Pair* FakeHitachi::pair_of(const Words& words) {
  const auto found = std::ranges::find_if(pairs_, [&words](const Pair& pair) {
    return pair.name.empty() && std::to_string(pair.primary) == words[0] &&
           std::to_string(pair.mirror_unit) == words[1];
  });
  return found == pairs_.end() ? nullptr : &*found;
}

// A pair that is on its way somewhere has come there at the next look.
ServedAnswer FakeHitachi::list_pairs(const ServedRequest& request, const Words&) {
  Json data = Json::array();
  for (Pair& pair : pairs_) {
    if (!pair.name.empty() || pair.group != request.query.at("snapshotGroupName")) continue;
    data.push_back({{"snapshotGroupName", pair.group},
                    {"primaryOrSecondary", "P-VOL"},
                    {"status", pair.status},
                    {"pvolLdevId", pair.primary},
                    {"svolLdevId", pair.secondary},
                    {"muNumber", pair.mirror_unit},
                    {"snapshotId", fmt::format("{},{}", pair.primary, pair.mirror_unit)}});
    pair.status = pair.next;
  }
  std::erase_if(pairs_, [](const Pair& pair) { return pair.status.empty(); });
  return {200, Json({{"data", data}}).dump(), {}};
}

ServedAnswer FakeHitachi::post_pair(const ServedRequest& request, const Words&) {
  const Json body = Json::parse(request.body);
  const uint64_t primary = body.at("pvolLdevId");
  const uint64_t secondary = body.at("svolLdevId");
  const std::string group = body.at("snapshotGroupName");
  if (group.size() > 32) return stray(request, "a group's name that is too long");
  if (!ldevs_.contains(primary) || !ldevs_.contains(secondary)) return refuse(404, "no LDEV");
  if (std::filesystem::file_size(file_of(primary)) !=
      std::filesystem::file_size(file_of(secondary))) {
    return stray(request, "volumes of two sizes");
  }
  if (body.at("snapshotPoolId") != kPool) return refuse(404, "no such pool");
  const bool clone = body.value("isClone", false);
  if (clone) copy(primary, secondary);
  Pair pair{group, "COPY", primary, secondary, ++last_mirror_unit_, clone ? "" : "PAIR", {}};
  if (mood_.pairs_fail) pair.next = "PSUE";
  pairs_.push_back(pair);
  return job(request);
}

ServedAnswer FakeHitachi::delete_pair(const ServedRequest& request, const Words& words) {
  Pair* pair = pair_of(words);
  if (pair == nullptr) return refuse(404, "no such pair");
  pair->status = "SMPP";
  pair->next = "";
  return job(request);
}

ServedAnswer FakeHitachi::restore_pair(const ServedRequest& request, const Words& words) {
  Pair* pair = pair_of(words);
  if (pair == nullptr) return refuse(404, "no such pair");
  if (pair->status != "PSUS") return stray(request, "a pair without snapshot data is restored");
  copy(pair->secondary, pair->primary);
  const Json body = Json::parse(request.body);
  pair->status = "RCPY";
  pair->next = body.at("parameters").at("autoSplit") == true ? "PSUS" : "PAIR";
  return job(request);
}

ServedAnswer FakeHitachi::split_group(const ServedRequest& request, const Words& words) {
  if (mood_.jobs_fail) return job(request, true);
  size_t split = 0;
  for (Pair& pair : pairs_) {
    if (pair.group != words[0]) continue;
    if (pair.status != "PAIR") return stray(request, "a pair that is no pair is split");
    copy(pair.primary, pair.secondary);
    pair.status = "PSUP";
    pair.next = "PSUS";
    ++split;
  }
  return split == 0 ? refuse(404, "no such group") : job(request);
}

ServedAnswer FakeHitachi::get_pool(const ServedRequest&, const Words& words) {
  if (words[0] != std::to_string(kPool)) return refuse(404, "no such pool");
  const Json body = {{"poolId", kPool},
                     {"poolStatus", mood_.full ? "POLF" : "POLN"},
                     {"totalPoolCapacity", 1024},
                     {"availableVolumeCapacity", mood_.full ? 0 : 512}};
  return {200, body.dump(), {}};
}

}  // namespace plumb
