#include "snapshot/arrays/xcopy.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <map>
#include <utility>

#include "base/aligned_memory.h"
#include "base/file.h"
#include "base/size.h"
#include "rdm/claim.h"
#include "rdm/scsi_transport.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/extended_copy.h"
#include "snapshot/arrays/state_file.h"

namespace plumb {

// What a spare holds, as the state file has it.
struct SpareContent {
  std::string name;
  bool snapshot = false;  // else a volume
  std::string volume;     // the id of which it is a snapshot
  uint64_t size_bytes = 0;
  bool whole = false;
  std::string time;  // when it was begun, for people
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpareContent, name, snapshot, volume, size_bytes, whole, time)

namespace {

constexpr size_t kBlankBytes = 1U << 20U;

// By WWN of the spare. `known`: spares that have held something, and so may be overwritten.
struct Spares {
  std::map<std::string, SpareContent> contents;
  std::vector<std::string> known;
};

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

// An open LUN at one end of a copy.
struct OpenLun {
  Lun lun;
  UniqueFd fd;
};

// The LUNs and their state.
class Mirror {
 public:
  Mirror(XcopyConfig config, const LunResolver& resolver)
      : config_(std::move(config)),
        resolver_(resolver),
        file_(config_.name, config_.state_path, "xcopy") {}

  const XcopyConfig& config() const { return config_; }

  Error error(const std::string& text) const { return failed("array {}: {}", config_.name, text); }
  Error error(const Error& cause) const {
    return Error{cause.kind, cause.os_errno, error(cause.message).message};
  }
  template <typename T>
  Result<T> of_array(Result<T> result) const {
    if (result) return result;
    return error(result.error());
  }

  Result<Spares> spares() const { return parse(TRY(file_.read())); }
  template <typename Change>
  Result<> change(Change change_spares) const {
    StateFile::Locked locked = TRY(file_.lock());
    Spares all = TRY(parse(locked.json()));
    TRY(change_spares(all));
    locked.json()["spares"] = all.contents;
    locked.json()["known"] = all.known;
    return of_array(locked.store());
  }

  Result<Lun> lun(const std::string& wwn) const {
    const LunId id = TRY(of_array(LunId::parse(wwn)));
    return of_array(resolver_.resolve(id));
  }
  std::string path(const Lun& lun) const { return resolver_.device_path(lun); }

  // For reading, beside the VM that has it.
  Result<OpenLun> source(const std::string& wwn) const {
    Lun found = TRY(lun(wwn));
    UniqueFd fd = TRY(of_array(open_file("LUN", path(found), O_RDONLY)));
    return OpenLun{std::move(found), std::move(fd)};
  }
  // For writing, by nobody else.
  Result<OpenLun> target(const std::string& wwn) const {
    const LunId id = TRY(of_array(LunId::parse(wwn)));
    ClaimedLun claimed = TRY(of_array(claim_lun(resolver_, id, {})));
    return OpenLun{std::move(claimed.lun), std::move(claimed.fd)};
  }

  // The first bytes of `from` to `to`, and on its medium; 0: one block, to see that it can be done.
  Result<> copy(const OpenLun& from, OpenLun to, uint64_t size_bytes) const {
    const uint32_t block = from.lun.logical_block_size;
    CopyLun source = TRY(of_array(copy_lun(from.lun.id, block)));
    CopyLun target = TRY(of_array(copy_lun(to.lun.id, to.lun.logical_block_size)));
    const int fd = to.fd.get();
    SgTransport manager(std::move(to.fd));
    const CopyLimits limits = TRY(of_array(ExtendedCopy::limits_of(manager)));
    ExtendedCopy copy(manager, std::move(source), std::move(target));
    Result<> copied = copy.copy(std::max<uint64_t>(size_bytes / block, 1), limits);
    // What this host has in memory of the target is old.
    if (copied && (::fsync(fd) != 0 || ::ioctl(fd, BLKFLSBUF, 0) != 0)) {
      copied = os_error(errno, "the copy cannot be made durable");
    }
    if (copied) return {};
    return error(fmt::format("LUN {} cannot be copied to {}: {}", from.lun.id.text(),
                             to.lun.id.text(), copied.error().message));
  }

 private:
  Result<Spares> parse(const nlohmann::json& json) const {
    Spares all;
    try {
      all.contents = json.value("spares", all.contents);
      all.known = json.value("known", all.known);
    } catch (const nlohmann::json::exception& cause) {
      return error(fmt::format("{} is damaged: {}", file_.path(), cause.what()));
    }
    return all;
  }

  const XcopyConfig config_;
  const LunResolver resolver_;
  const StateFile file_;
};

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::ranges::find(all, one) != all.end();
}

bool is_blank(int fd) {
  const AlignedMemory start = aligned_memory(kBlankBytes);
  const ssize_t got = start ? ::pread(fd, start.get(), kBlankBytes, 0) : -1;
  return got > 0 && std::all_of(start.get(), start.get() + got,
                                [](std::byte byte) { return byte == std::byte{0}; });
}

// The smallest spare that is free and fits `like`, claimed; its WWN is its id.
Result<OpenLun> claim_spare(const Mirror& mirror, const Spares& spares, const Lun& like) {
  std::vector<Lun> fitting;
  for (const std::string& wwn : mirror.config().spares) {
    if (spares.contents.contains(wwn)) continue;
    Lun lun = TRY(mirror.lun(wwn));
    if (lun.size_bytes < like.size_bytes || lun.logical_block_size != like.logical_block_size) {
      continue;
    }
    fitting.push_back(std::move(lun));
  }
  if (fitting.empty()) {
    return mirror.error(fmt::format("no spare LUN is free for {} of {} bytes in blocks of {}",
                                    like.id.text(), like.size_bytes, like.logical_block_size));
  }
  const Lun best = *std::ranges::min_element(fitting, {}, &Lun::size_bytes);
  OpenLun spare = TRY(mirror.target(best.id.text()));
  if (contains(spares.known, best.id.text()) || is_blank(spare.fd.get())) return spare;
  return mirror.error(fmt::format(
      "the spare {} holds something that plumb has not put there; if nobody needs it, zero its "
      "first MiB (blkdiscard -z -l 1MiB {}) and try again",
      best.id.text(), mirror.path(best)));
}

// Gives a name to a spare; durable before anything is copied.
Result<OpenLun> reserve(const Mirror& mirror, Spares& spares, const Lun& like,
                        SpareContent content) {
  for (const auto& [wwn, other] : spares.contents) {
    if (other.name == content.name) return name_taken(mirror.config().name, content.name);
  }
  OpenLun spare = TRY(claim_spare(mirror, spares, like));
  const std::string wwn = spare.lun.id.text();
  content.time = now_text();
  if (!contains(spares.known, wwn)) spares.known.push_back(wwn);
  spares.contents[wwn] = std::move(content);
  return spare;
}

std::string id_of(const std::string& wwn, const SpareContent& content) {
  return content.name + "@" + wwn;
}

// The spare of an id, as long as it still holds what the id says.
std::map<std::string, SpareContent>::const_iterator spare_of(const Spares& spares,
                                                             const std::string& id) {
  return std::ranges::find_if(
      spares.contents, [&id](const auto& one) { return id_of(one.first, one.second) == id; });
}

Result<> mark_whole(const Mirror& mirror, const std::vector<std::string>& wwns) {
  return mirror.change([&wwns](Spares& spares) -> Result<> {
    for (const std::string& wwn : wwns) spares.contents[wwn].whole = true;
    return {};
  });
}

// What they hold is forgotten; of those that have been given to another name since, nothing.
Result<> release(const Mirror& mirror, const std::vector<std::string>& ids) {
  return mirror.change([&ids](Spares& spares) -> Result<> {
    for (const std::string& id : ids) {
      const auto found = spare_of(spares, id);
      if (found != spares.contents.end()) spares.contents.erase(found);
    }
    return {};
  });
}

class PreparedMirror final : public PreparedSnapshot {
 public:
  struct Part {
    OpenLun from;
    OpenLun to;  // claimed until the copy has ended
    std::string wwn;
    SpareContent content;
  };

  PreparedMirror(const Mirror& mirror, std::vector<Part> parts)
      : mirror_(mirror), parts_(std::move(parts)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedMirror() override {
    if (finished_) return;
    std::vector<std::string> ids;
    for (const Part& part : parts_) ids.push_back(id_of(part.wwn, part.content));
    static_cast<void>(release(mirror_, ids).ok());
  }

  // That the array can copy between these LUNs is seen before guests are frozen.
  Result<> probe() {
    for (Part& part : parts_) {
      UniqueFd again(::fcntl(part.to.fd.get(), F_DUPFD_CLOEXEC, 3));
      TRY(mirror_.copy(part.from, {part.to.lun, std::move(again)}, 0));
    }
    return {};
  }

  Result<> take() override { return {}; }

  Result<std::vector<ArraySnapshot>> finish() override {
    std::vector<ArraySnapshot> made;
    std::vector<std::string> wwns;
    for (Part& part : parts_) {
      TRY(mirror_.copy(part.from, std::move(part.to), part.content.size_bytes));
      wwns.push_back(part.wwn);
      made.push_back({id_of(part.wwn, part.content), part.content.name, part.content.volume,
                      part.content.size_bytes, true});
    }
    TRY(mark_whole(mirror_, wwns));
    finished_ = true;
    return made;
  }

 private:
  const Mirror& mirror_;
  std::vector<Part> parts_;
  bool finished_ = false;
};

class XcopyArray final : public ArrayProvider {
 public:
  XcopyArray(const XcopyConfig& config, const LunResolver& resolver) : mirror_(config, resolver) {}

  const std::string& name() const override { return mirror_.config().name; }
  Abilities abilities() const override {
    return {.instant = false, .writable_snapshots = true, .claims = true};
  }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override;
  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override;
  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override;
  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override;
  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override;
  Result<MappedVolume> map(const std::string& id) override;
  // A LUN is there for this host, mapped or not.
  Result<> unmap(const std::string&) override { return {}; }
  Result<> remove(const std::string& id) override;
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override;
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override;
  Result<ArrayCapacity> capacity() override;
  Result<> health() override;

 private:
  // The WWN and content of a snapshot that is whole.
  Result<std::pair<std::string, SpareContent>> snapshot(const Spares& spares,
                                                        const std::string& id) const;
  // The WWN of a volume, which may be a clone.
  Result<std::string> wwn_of_volume(const Spares& spares, const std::string& id) const;
  // The LUN of a volume, as large as the volume: its spare may be larger.
  Result<OpenLun> source_of_volume(const Spares& spares, const std::string& id) const;

  const Mirror mirror_;
};

Result<std::pair<std::string, SpareContent>> XcopyArray::snapshot(const Spares& spares,
                                                                  const std::string& id) const {
  const auto found = spare_of(spares, id);
  if (found != spares.contents.end() && found->second.snapshot && found->second.whole) {
    return std::pair(found->first, found->second);
  }
  return mirror_.error(fmt::format("there is no whole snapshot {}", id));
}

Result<std::string> XcopyArray::wwn_of_volume(const Spares& spares, const std::string& id) const {
  if (contains(mirror_.config().luns, id)) return id;
  const auto found = spare_of(spares, id);
  if (found != spares.contents.end() && !found->second.snapshot && found->second.whole) {
    return found->first;
  }
  return mirror_.error(fmt::format("there is no whole volume {}", id));
}

Result<OpenLun> XcopyArray::source_of_volume(const Spares& spares, const std::string& id) const {
  OpenLun source = TRY(mirror_.source(TRY(wwn_of_volume(spares, id))));
  const auto clone = spare_of(spares, id);
  if (clone != spares.contents.end()) source.lun.size_bytes = clone->second.size_bytes;
  return source;
}

Result<std::optional<ArrayVolume>> XcopyArray::find(const DiskMedium& medium) {
  if (contains(mirror_.config().luns, medium.wwn)) {
    const Lun lun = TRY(mirror_.lun(medium.wwn));
    return std::optional<ArrayVolume>({medium.wwn, medium.wwn, lun.size_bytes, true});
  }
  const Spares spares = TRY(mirror_.spares());
  const auto spare = spares.contents.find(medium.wwn);
  if (spare == spares.contents.end() || spare->second.snapshot) return std::optional<ArrayVolume>();
  const SpareContent& content = spare->second;
  return std::optional<ArrayVolume>(
      {id_of(medium.wwn, content), content.name, content.size_bytes, content.whole});
}

Result<std::unique_ptr<PreparedSnapshot>> XcopyArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  std::vector<PreparedMirror::Part> parts;
  TRY(mirror_.change([&](Spares& spares) -> Result<> {
    for (const SnapshotRequest& request : requests) {
      OpenLun from = TRY(source_of_volume(spares, request.volume.id));
      SpareContent content{.name = request.name,
                           .snapshot = true,
                           .volume = request.volume.id,
                           .size_bytes = from.lun.size_bytes};
      OpenLun to = TRY(reserve(mirror_, spares, from.lun, content));
      const std::string wwn = to.lun.id.text();
      parts.push_back({std::move(from), std::move(to), wwn, std::move(content)});
    }
    return {};
  }));
  auto prepared = std::make_unique<PreparedMirror>(mirror_, std::move(parts));
  TRY(prepared->probe());
  return prepared;
}

Result<ArrayVolume> XcopyArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  std::optional<OpenLun> from;
  std::optional<OpenLun> to;
  SpareContent content{.name = name};
  TRY(mirror_.change([&](Spares& spares) -> Result<> {
    const auto [wwn, origin] = TRY(snapshot(spares, snapshot_id));
    from = TRY(mirror_.source(wwn));
    content.size_bytes = origin.size_bytes;
    // The spare of a snapshot may be larger than what it holds.
    Lun like = from->lun;
    like.size_bytes = origin.size_bytes;
    to = TRY(reserve(mirror_, spares, like, content));
    return {};
  }));
  const std::string wwn = to->lun.id.text();
  const std::string id = id_of(wwn, content);
  Result<> copied = mirror_.copy(*from, std::move(*to), content.size_bytes);
  if (copied) copied = mark_whole(mirror_, {wwn});
  if (copied) return ArrayVolume{id, name, content.size_bytes, true};
  static_cast<void>(release(mirror_, {id}).ok());
  return std::move(copied).error();
}

Result<ArrayVolume> XcopyArray::create(const std::string&, uint64_t) {
  return mirror_.error("it makes no volumes; make a LUN in the array");
}

Result<> XcopyArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const Spares spares = TRY(mirror_.spares());
  const auto [wwn, content] = TRY(snapshot(spares, snapshot_id));
  if (content.volume != volume_id) {
    return mirror_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
  }
  const OpenLun from = TRY(mirror_.source(wwn));
  OpenLun to = TRY(mirror_.target(TRY(wwn_of_volume(spares, volume_id))));
  if (to.lun.size_bytes < content.size_bytes) {
    return mirror_.error(fmt::format("{} has {} bytes now, and its snapshot {}", volume_id,
                                     to.lun.size_bytes, content.size_bytes));
  }
  return mirror_.copy(from, std::move(to), content.size_bytes);
}

Result<MappedVolume> XcopyArray::map(const std::string& id) {
  const Spares spares = TRY(mirror_.spares());
  const auto found = spare_of(spares, id);
  const bool whole = found != spares.contents.end() && found->second.whole;
  const std::string wwn = whole ? found->first : TRY(wwn_of_volume(spares, id));
  return MappedVolume{wwn, mirror_.path(TRY(mirror_.lun(wwn)))};
}

Result<> XcopyArray::remove(const std::string& id) {
  if (contains(mirror_.config().luns, id)) {
    return mirror_.error(fmt::format("{} was not made here, and is not removed", id));
  }
  const Spares spares = TRY(mirror_.spares());
  const auto found = spare_of(spares, id);
  if (found == spares.contents.end()) return {};
  // Who uses it would see the next copy; a LUN that is not there any more is used by nobody.
  if (mirror_.lun(found->first).ok()) TRY(mirror_.target(found->first));
  return release(mirror_, {id});
}

Result<std::vector<ArraySnapshot>> XcopyArray::list_snapshots(const std::string& prefix) {
  const Spares spares = TRY(mirror_.spares());
  std::vector<ArraySnapshot> all;
  for (const auto& [wwn, content] : spares.contents) {
    if (!content.snapshot || !content.name.starts_with(prefix)) continue;
    all.push_back(
        {id_of(wwn, content), content.name, content.volume, content.size_bytes, content.whole});
  }
  return all;
}

Result<std::vector<ArrayVolume>> XcopyArray::list_volumes(const std::string& prefix) {
  const Spares spares = TRY(mirror_.spares());
  std::vector<ArrayVolume> all;
  for (const auto& [wwn, content] : spares.contents) {
    if (content.snapshot || !content.name.starts_with(prefix)) continue;
    all.push_back({id_of(wwn, content), content.name, content.size_bytes, content.whole});
  }
  return all;
}

Result<ArrayCapacity> XcopyArray::capacity() {
  const Spares spares = TRY(mirror_.spares());
  ArrayCapacity capacity;
  for (const std::string& wwn : mirror_.config().spares) {
    const uint64_t size = TRY(mirror_.lun(wwn)).size_bytes;
    capacity.total_bytes += size;
    if (!spares.contents.contains(wwn)) capacity.free_bytes += size;
  }
  return capacity;
}

// Each spare is there, and says that it copies.
Result<> XcopyArray::health() {
  for (const std::string& wwn : mirror_.config().spares) {
    OpenLun spare = TRY(mirror_.source(wwn));
    SgTransport manager(std::move(spare.fd));
    Result<CopyLimits> limits = ExtendedCopy::limits_of(manager);
    if (!limits) {
      return mirror_.error(fmt::format("spare {}: {}", wwn, limits.error().message));
    }
  }
  return {};
}

}  // namespace

std::unique_ptr<ArrayProvider> make_xcopy_array(const XcopyConfig& config,
                                                const LunResolver& resolver) {
  return std::make_unique<XcopyArray>(config, resolver);
}

}  // namespace plumb
