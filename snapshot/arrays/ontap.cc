#include "snapshot/arrays/ontap.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/secret_file.h"
#include "rdm/lun_id.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/ontap_rest.h"

namespace plumb {
namespace {

using nlohmann::json;
using Deadline = OntapRest::Deadline;

constexpr const char* kLunFields =
    "fields=uuid,name,serial_number,os_type,comment,space.size,location.volume.uuid,"
    "location.volume.name";
constexpr uint64_t kSizeGranule = 4096;
// How long the array may hold writes between start and commit; 5 to 90 is right for all releases.
constexpr unsigned kMinFenceSeconds = 5;
constexpr unsigned kMaxFenceSeconds = 90;

// The array's LUNs, and what plumb calls them.
class Ontap {
 public:
  Ontap(OntapConfig config, const std::string& password, HostLuns host)
      : config_(std::move(config)), rest_(config_, password), host_(std::move(host)) {}

  const OntapConfig& config() const { return config_; }
  const OntapRest& rest() const { return rest_; }
  const HostLuns& host() const { return host_; }
  Error error(const std::string& text) const { return rest_.error(text); }

  std::string base_name_of(const std::string& name) const {
    return "plumb." + config_.name + "." + name;
  }
  std::string take_comment() const { return "plumb take array=" + config_.name; }
  std::string in_svm() const { return "svm.name=" + percent_encoded(config_.svm); }
  json svm() const { return {{"name", config_.svm}}; }

  // What was made here is that, by its name and by its comment.
  std::optional<OntapMark> mark_of(const OntapLun& lun) const {
    if (!lun.base_name().starts_with(base_name_of(""))) return std::nullopt;
    std::optional<OntapMark> mark = OntapMark::parse(lun.comment);
    return mark && mark->array == config_.name ? mark : std::nullopt;
  }
  std::string name_of(const OntapLun& lun) const {
    return mark_of(lun) ? lun.base_name().substr(base_name_of("").size()) : lun.base_name();
  }

  // Of the volumes that are this array's.
  Result<std::vector<OntapLun>> luns() const {
    auto all =
        TRY(rest_.list(fmt::format("/storage/luns?{}&{}&max_records=1000", in_svm(), kLunFields),
                       ontap_answer::luns));
    std::erase_if(all, [this](const OntapLun& lun) { return !has_volume(lun.volume); });
    return all;
  }
  // By its id, with its igroups; none when it is gone, or not of this array.
  Result<std::optional<OntapLun>> find_lun(const std::string& id) const;
  Result<OntapLun> lun(const std::string& id) const;
  Result<OntapLun> snapshot(const std::string& id) const;  // whole

  // An error when one of the names is taken by a LUN that is not one of `own`.
  Result<> check_free(const std::vector<std::string>& names,
                      const std::set<std::string>& own) const;

  // Makes a LUN of plumb's; `more` says of what.
  Result<OntapLun> make_lun(const std::string& volume, const std::string& name,
                            const OntapMark& mark, json more) const;
  // The content of another LUN of the same volume, live or in a snapshot. ONTAP takes its comment
  // too, unless it is given one.
  Result<> clone_into(const OntapLun& lun, const std::string& from_path, const std::string& comment,
                      Deadline deadline) const;
  // Removes a LUN of plumb's, and before it the volumes' snapshot that it waits for.
  Result<> remove(const OntapLun& lun) const;
  Result<> remove_take(const OntapLun& of, const OntapMark& mark) const;
  Result<> unmap(const OntapLun& lun) const;
  Result<std::string> igroup() const;

 private:
  bool has_volume(const std::string& name) const {
    return std::ranges::find(config_.volumes, name) != config_.volumes.end();
  }

  const OntapConfig config_;
  const OntapRest rest_;
  const HostLuns host_;
};

Result<std::optional<OntapLun>> Ontap::find_lun(const std::string& id) const {
  if (!is_ontap_uuid(id)) return error(fmt::format("'{}' is no id of a LUN", id));
  const std::string path = "/storage/luns/" + id;
  Result<std::string> answer =
      rest_.get(fmt::format("{}?{},lun_maps", path, kLunFields), rest_.soon());
  if (!answer && answer.error().kind == ErrorKind::kNotFound) return std::optional<OntapLun>();
  if (!answer) return std::move(answer).error();
  OntapLun lun = TRY(rest_.understood(path, ontap_answer::lun(*answer)));
  if (!has_volume(lun.volume)) {
    return error(fmt::format("the LUN {} is in the volume {}, which is not one of 'volumes'",
                             lun.path, lun.volume));
  }
  return std::optional<OntapLun>(std::move(lun));
}

Result<OntapLun> Ontap::lun(const std::string& id) const {
  std::optional<OntapLun> found = TRY(find_lun(id));
  if (!found) return error(fmt::format("there is no LUN {}", id));
  const std::optional<OntapMark> mark = mark_of(*found);
  if (mark && mark->partial) return error(fmt::format("{} was only begun", found->path));
  return std::move(*found);
}

Result<OntapLun> Ontap::snapshot(const std::string& id) const {
  OntapLun found = TRY(lun(id));
  const std::optional<OntapMark> mark = mark_of(found);
  if (mark && mark->snapshot) return found;
  return error(fmt::format("{} is no snapshot made here", found.path));
}

Result<> Ontap::check_free(const std::vector<std::string>& names,
                           const std::set<std::string>& own) const {
  for (const OntapLun& lun : TRY(luns())) {
    for (const std::string& name : names) {
      if (lun.base_name() == base_name_of(name) && !own.contains(lun.uuid)) {
        return name_taken(config_.name, name);
      }
    }
  }
  return {};
}

Result<OntapLun> Ontap::make_lun(const std::string& volume, const std::string& name,
                                 const OntapMark& mark, json more) const {
  json body = std::move(more);
  const std::string path = "/vol/" + volume + "/" + base_name_of(name);
  body["svm"] = svm();
  body["name"] = path;
  body["comment"] = mark.text();
  body["space"]["guarantee"]["requested"] = false;
  TRY(rest_.send("POST", "/storage/luns", body, rest_.soon()));
  // Its UUID and serial number are the array's to give.
  const auto made = TRY(rest_.list(
      fmt::format("/storage/luns?{}&name={}&{}", in_svm(), percent_encoded(path), kLunFields),
      ontap_answer::luns));
  if (made.size() == 1 && made[0].path == path) return made[0];
  return error(fmt::format("the LUN {} was made, and is not there", path));
}

Result<> Ontap::clone_into(const OntapLun& lun, const std::string& from_path,
                           const std::string& comment, Deadline deadline) const {
  const json body = {{"clone", {{"source", {{"name", from_path}}}}}, {"comment", comment}};
  TRY(rest_.send("PATCH", "/storage/luns/" + lun.uuid, body, deadline));
  return {};
}

Result<> Ontap::remove_take(const OntapLun& of, const OntapMark& mark) const {
  if (mark.take.empty()) return {};
  const std::string folder = mark.group.empty()
                                 ? "/storage/volumes/" + of.volume_uuid + "/snapshots"
                                 : "/application/consistency-groups/" + mark.group + "/snapshots";
  Result<std::vector<OntapName>> found = rest_.list(
      fmt::format("{}?name={}&fields=uuid,name,comment", folder, percent_encoded(mark.take)),
      ontap_answer::names);
  // The group went, with all its snapshots' records.
  if (!found && found.error().kind == ErrorKind::kNotFound) return {};
  if (!found) return std::move(found).error();
  for (const OntapName& snapshot : *found) {
    if (snapshot.name != mark.take || snapshot.comment != take_comment()) continue;
    Result<std::string> gone =
        rest_.send("DELETE", folder + "/" + snapshot.uuid, nullptr, rest_.soon());
    if (!gone && gone.error().kind != ErrorKind::kNotFound) return std::move(gone).error();
  }
  return {};
}

Result<> Ontap::unmap(const OntapLun& lun) const {
  if (!lun.wwn.empty()) {
    Result<> gone = host_.vanish(TRY(LunId::parse(lun.wwn)));
    if (!gone) return rest_.of_array(gone.error());
  }
  const std::string ours = TRY(igroup());
  if (std::ranges::find(lun.igroups, ours) == lun.igroups.end()) return {};
  Result<std::string> done =
      rest_.send("DELETE", fmt::format("/protocols/san/lun-maps/{}/{}", lun.uuid, ours), nullptr,
                 rest_.soon());
  if (!done && done.error().kind != ErrorKind::kNotFound) return std::move(done).error();
  return {};
}

Result<> Ontap::remove(const OntapLun& lun) const {
  const std::optional<OntapMark> mark = mark_of(lun);
  if (!mark) return error(fmt::format("{} was not made here, and is not removed", lun.path));
  TRY(unmap(lun));
  TRY(remove_take(lun, *mark));
  Result<std::string> gone =
      rest_.send("DELETE", "/storage/luns/" + lun.uuid, nullptr, rest_.soon());
  if (!gone && gone.error().kind != ErrorKind::kNotFound) return std::move(gone).error();
  return {};
}

Result<std::string> Ontap::igroup() const {
  const auto found =
      TRY(rest_.list(fmt::format("/protocols/san/igroups?{}&name={}&fields=uuid,name", in_svm(),
                                 percent_encoded(config_.igroup)),
                     ontap_answer::names));
  if (found.size() == 1) return found[0].uuid;
  return error(fmt::format("the SVM {} has {} igroups '{}'; make one with this host's initiators",
                           config_.svm, found.size(), config_.igroup));
}

// One LUN of a prepared snapshot.
struct Part {
  OntapLun from;
  OntapLun to;  // its clone, empty until take() or finish()
  std::string name;
  OntapMark mark;
};

class PreparedOntap final : public PreparedSnapshot {
 public:
  // `take`, `group`: as in OntapMark; "" when they are not needed.
  PreparedOntap(const Ontap& ontap, std::string take, std::string group)
      : ontap_(ontap), take_(std::move(take)), group_(std::move(group)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedOntap() override {
    if (finished_) return;
    for (const Part& part : parts_) {
      Result<std::optional<OntapLun>> now = ontap_.find_lun(part.to.uuid);
      if (now && *now) static_cast<void>(ontap_.remove(**now).ok());
    }
  }

  // The LUN that the clone will be, found by name from here on.
  Result<> add(OntapLun from, const std::string& name) {
    OntapMark mark{.array = ontap_.config().name,
                   .snapshot = true,
                   .of = from.uuid,
                   .partial = true,
                   .take = take_,
                   .group = group_};
    const json like = {{"os_type", from.os_type}, {"space", {{"size", from.size_bytes}}}};
    OntapLun to = TRY(ontap_.make_lun(from.volume, name, mark, like));
    parts_.push_back({std::move(from), std::move(to), name, std::move(mark)});
    return {};
  }

  // Nobody else took one of the names meanwhile.
  Result<> check_names() const {
    std::vector<std::string> names;
    std::set<std::string> own;
    for (const Part& part : parts_) {
      names.push_back(part.name);
      own.insert(part.to.uuid);
    }
    return ontap_.check_free(names, own);
  }

  Result<> take() override {
    const Deadline deadline = ontap_.rest().in_frozen_time();
    if (take_.empty()) {
      const Part& only = parts_.front();
      return ontap_.clone_into(only.to, only.from.path, only.mark.text(), deadline);
    }
    return group_.empty() ? take_volume(deadline) : take_group(deadline);
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    for (const Part& part : parts_) {
      if (take_.empty()) break;
      TRY(ontap_.clone_into(part.to, ontap_path_in_snapshot(part.from.path, take_),
                            part.mark.text(), ontap_.rest().soon()));
    }
    if (!take_.empty()) TRY(ontap_.remove_take(parts_.front().from, parts_.front().mark));
    std::vector<ArraySnapshot> made;
    for (const Part& part : parts_) {
      OntapMark whole = part.mark;
      whole.partial = false;
      whole.take = whole.group = "";
      TRY(ontap_.rest().send("PATCH", "/storage/luns/" + part.to.uuid, {{"comment", whole.text()}},
                             ontap_.rest().soon()));
      made.push_back({part.to.uuid, part.name, part.from.uuid, part.from.size_bytes, true});
    }
    finished_ = true;
    return made;
  }

 private:
  Result<> take_volume(Deadline deadline) const {
    const std::string path =
        fmt::format("/storage/volumes/{}/snapshots?return_timeout={}",
                    parts_.front().from.volume_uuid, ontap_.config().take_timeout_ms / 1000);
    const json body = {{"name", take_}, {"comment", ontap_.take_comment()}};
    TRY(ontap_.rest().send("POST", path, body, deadline));
    return {};
  }

  // The array holds all writes from the start to the commit, and forgets the snapshot if there is
  // none in time: so nothing is half taken whoever dies.
  Result<> take_group(Deadline deadline) const {
    const OntapRest& rest = ontap_.rest();
    const std::string folder = "/application/consistency-groups/" + group_ + "/snapshots";
    const unsigned seconds = ontap_.config().take_timeout_ms / 1000;
    const unsigned fence = std::clamp(seconds, kMinFenceSeconds, kMaxFenceSeconds);
    const json body = {{"name", take_}, {"comment", ontap_.take_comment()}};
    const std::string start =
        fmt::format("{}?action=start&action_timeout={}&return_timeout={}&return_records=true",
                    folder, fence, seconds);
    const std::string answer = TRY(rest.send("POST", start, body, deadline));
    const std::string uuid = TRY(started(folder, answer, deadline));
    const std::string commit =
        fmt::format("{}/{}?action=commit&return_timeout={}", folder, uuid, seconds);
    TRY(rest.send("PATCH", commit, json::object(), deadline));
    return {};
  }

  // The UUID of the snapshot that was started: in the answer, unless a job has made it.
  Result<std::string> started(const std::string& folder, const std::string& answer,
                              Deadline deadline) const {
    Result<OntapPage<OntapName>> told = ontap_answer::names(answer);
    if (told && told->records.size() == 1) return told->records[0].uuid;
    const auto found =
        TRY(ontap_.rest().list(folder + "?name=" + percent_encoded(take_) + "&fields=uuid,name",
                               ontap_answer::names, deadline));
    if (found.size() == 1) return found[0].uuid;
    return ontap_.error(fmt::format("the snapshot {} was started, and is not there", take_));
  }

  const Ontap& ontap_;
  const std::string take_;
  const std::string group_;
  std::vector<Part> parts_;
  bool finished_ = false;
};

class OntapArray final : public ArrayProvider {
 public:
  OntapArray(const OntapConfig& config, const std::string& password, HostLuns host)
      : ontap_(config, password, std::move(host)) {}

  const std::string& name() const override { return ontap_.config().name; }
  Abilities abilities() const override {
    return {.group = true, .instant = true, .provisions = true, .writable_snapshots = true};
  }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override;
  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override;
  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override;
  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override;
  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override;
  Result<MappedVolume> map(const std::string& id) override;
  Result<> unmap(const std::string& id) override;
  Result<> remove(const std::string& id) override;
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override;
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override;
  Result<ArrayCapacity> capacity() override;
  Result<> health() override;

 private:
  Result<std::vector<OntapVolume>> volumes() const;
  // The UUID of a consistency group that has all these volumes; "" when one is enough.
  Result<std::string> group_of(const std::vector<OntapLun>& luns) const;

  const Ontap ontap_;
};

Result<std::optional<ArrayVolume>> OntapArray::find(const DiskMedium& medium) {
  // Only ONTAP's identities are asked for.
  if (!medium.wwn.starts_with("naa.600a0980")) return std::optional<ArrayVolume>();
  const std::vector<OntapLun> all = TRY(ontap_.luns());
  const auto found = std::ranges::find(all, medium.wwn, &OntapLun::wwn);
  if (found == all.end()) return std::optional<ArrayVolume>();
  const std::optional<OntapMark> mark = ontap_.mark_of(*found);
  return std::optional<ArrayVolume>(
      {found->uuid, ontap_.name_of(*found), found->size_bytes, !mark || !mark->partial});
}

Result<std::string> OntapArray::group_of(const std::vector<OntapLun>& luns) const {
  std::set<std::string> needed;
  for (const OntapLun& lun : luns) needed.insert(lun.volume_uuid);
  if (needed.size() == 1) return std::string();
  const auto groups = TRY(ontap_.rest().list(
      fmt::format("/application/consistency-groups?{}&fields=uuid,name,volumes.uuid",
                  ontap_.in_svm()),
      ontap_answer::groups));
  for (const OntapGroup& group : groups) {
    const std::set<std::string> has(group.volumes.begin(), group.volumes.end());
    if (std::ranges::includes(has, needed)) return group.uuid;
  }
  return ontap_.error(fmt::format(
      "the LUNs are in {} volumes, and no consistency group of the SVM {} has all of them; make "
      "one (consistency-group create), or keep a VM's LUNs in one volume",
      needed.size(), ontap_.config().svm));
}

Result<std::unique_ptr<PreparedSnapshot>> OntapArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  std::vector<std::string> names;
  std::vector<OntapLun> luns;
  for (const SnapshotRequest& request : requests) {
    names.push_back(request.name);
    luns.push_back(TRY(ontap_.lun(request.volume.id)));
  }
  TRY(ontap_.check_free(names, {}));
  const std::string group = TRY(group_of(luns));
  const std::string take = luns.size() == 1 ? "" : ontap_.base_name_of(names.front());
  auto prepared = std::make_unique<PreparedOntap>(ontap_, take, group);
  for (size_t i = 0; i < luns.size(); ++i) TRY(prepared->add(std::move(luns[i]), names[i]));
  TRY(prepared->check_names());
  return prepared;
}

Result<ArrayVolume> OntapArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  const OntapLun from = TRY(ontap_.snapshot(snapshot_id));
  TRY(ontap_.check_free({name}, {}));
  const OntapMark mark{.array = this->name()};
  const OntapLun made = TRY(
      ontap_.make_lun(from.volume, name, mark, {{"clone", {{"source", {{"name", from.path}}}}}}));
  return ArrayVolume{made.uuid, name, made.size_bytes, true};
}

Result<ArrayVolume> OntapArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return ontap_.error(fmt::format("a volume of {} bytes cannot be made; give a multiple of {}",
                                    size_bytes, kSizeGranule));
  }
  TRY(ontap_.check_free({name}, {}));
  const OntapMark mark{.array = this->name()};
  const OntapLun made =
      TRY(ontap_.make_lun(ontap_.config().volumes.front(), name, mark,
                          {{"os_type", "linux"}, {"space", {{"size", size_bytes}}}}));
  return ArrayVolume{made.uuid, name, made.size_bytes, true};
}

Result<> OntapArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const OntapLun from = TRY(ontap_.snapshot(snapshot_id));
  const OntapLun to = TRY(ontap_.lun(volume_id));
  if (ontap_.mark_of(from)->of != to.uuid) {
    return ontap_.error(fmt::format("{} is no snapshot of {}", from.path, to.path));
  }
  if (from.size_bytes != to.size_bytes) {
    return ontap_.error(fmt::format("{} has {} bytes now, and its snapshot {}; resize it first",
                                    to.path, to.size_bytes, from.size_bytes));
  }
  TRY(ontap_.clone_into(to, from.path, to.comment, ontap_.rest().soon()));
  if (!to.wwn.empty()) ontap_.host().forget_content(TRY(LunId::parse(to.wwn)));
  return {};
}

Result<MappedVolume> OntapArray::map(const std::string& id) {
  const OntapLun lun = TRY(ontap_.lun(id));
  if (lun.wwn.empty()) {
    return ontap_.error(fmt::format("{} has no serial number to find it by", lun.path));
  }
  const std::string igroup = TRY(ontap_.igroup());
  if (std::ranges::find(lun.igroups, igroup) == lun.igroups.end()) {
    const json body = {{"svm", ontap_.svm()},
                       {"lun", {{"name", lun.path}}},
                       {"igroup", {{"name", ontap_.config().igroup}}}};
    TRY(ontap_.rest().send("POST", "/protocols/san/lun-maps", body, ontap_.rest().soon()));
  }
  Result<std::string> device = ontap_.host().appear(TRY(LunId::parse(lun.wwn)));
  if (!device) return ontap_.rest().of_array(device.error());
  return MappedVolume{lun.wwn, std::move(*device)};
}

// A LUN of the administrator's was mapped before, and stays so.
Result<> OntapArray::unmap(const std::string& id) {
  const std::optional<OntapLun> lun = TRY(ontap_.find_lun(id));
  if (!lun || !ontap_.mark_of(*lun)) return {};
  return ontap_.unmap(*lun);
}

Result<> OntapArray::remove(const std::string& id) {
  const std::optional<OntapLun> lun = TRY(ontap_.find_lun(id));
  if (!lun) return {};
  return ontap_.remove(*lun);
}

Result<std::vector<ArraySnapshot>> OntapArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> found;
  for (const OntapLun& lun : TRY(ontap_.luns())) {
    const std::optional<OntapMark> mark = ontap_.mark_of(lun);
    const std::string name = ontap_.name_of(lun);
    if (!mark || !mark->snapshot || !is_array_name(name) || !name.starts_with(prefix)) continue;
    found.push_back({lun.uuid, name, mark->of, lun.size_bytes, !mark->partial});
  }
  return found;
}

Result<std::vector<ArrayVolume>> OntapArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> found;
  for (const OntapLun& lun : TRY(ontap_.luns())) {
    const std::optional<OntapMark> mark = ontap_.mark_of(lun);
    const std::string name = ontap_.name_of(lun);
    if (!mark || mark->snapshot || !is_array_name(name) || !name.starts_with(prefix)) continue;
    found.push_back({lun.uuid, name, lun.size_bytes, true});
  }
  return found;
}

Result<std::vector<OntapVolume>> OntapArray::volumes() const {
  const auto& wanted = ontap_.config().volumes;
  auto all = TRY(ontap_.rest().list(
      fmt::format("/storage/volumes?{}&fields=uuid,name,state,space.size,space.available",
                  ontap_.in_svm()),
      ontap_answer::volumes));
  std::erase_if(all, [&wanted](const OntapVolume& volume) {
    return std::ranges::find(wanted, volume.name) == wanted.end();
  });
  for (const std::string& name : wanted) {
    const auto found = std::ranges::find(all, name, &OntapVolume::name);
    if (found == all.end()) {
      return ontap_.error(fmt::format("the SVM {} has no volume '{}'", ontap_.config().svm, name));
    }
    if (found->state == "online") continue;
    return ontap_.error(fmt::format("the volume {} is {}", name, found->state));
  }
  return all;
}

Result<ArrayCapacity> OntapArray::capacity() {
  ArrayCapacity capacity;
  for (const OntapVolume& volume : TRY(volumes())) {
    capacity.total_bytes += volume.size_bytes;
    capacity.free_bytes += std::min(volume.available_bytes, volume.size_bytes);
  }
  return capacity;
}

Result<> OntapArray::health() {
  TRY(ontap_.igroup());
  for (const OntapVolume& volume : TRY(volumes())) {
    if (volume.available_bytes != 0) continue;
    return ontap_.error(
        fmt::format("the volume {} is full; grow it, or remove snapshots", volume.name));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ArrayProvider>> open_ontap_array(const OntapConfig& config, HostLuns host) {
  Result<std::string> password = read_secret(config.password_file);
  if (!password) return failed("array {}: {}", config.name, password.error().message);
  return std::make_unique<OntapArray>(config, *password, std::move(host));
}

}  // namespace plumb
