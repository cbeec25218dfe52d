#include "snapshot/arrays/dm_thin.h"

#include <utility>
#include <vector>

#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/resume_guard.h"
#include "snapshot/arrays/thin_pool.h"

namespace plumb {
namespace {

constexpr uint64_t kSizeGranule = 4096;
constexpr uint64_t kSectorBytes = 512;

// A new name in the state, with a thin id of its own.
Result<ThinEntry> reserve(ThinPool& pool, ThinState& state, const std::string& name,
                          ThinEntry entry) {
  if (state.entries.contains(name)) return name_taken(pool.config().name, name);
  entry.thin_id = TRY(pool.free_id(state));
  state.entries[name] = entry;
  return entry;
}

Result<> keep(ThinPool& pool, const std::string& name) {
  return pool.change([&name](ThinState& state) -> Result<> {
    state.entries[name].whole = true;
    return {};
  });
}

// Takes an entry away with what the pool has of it.
Result<> drop(ThinPool& pool, const std::string& name, const ThinEntry& entry) {
  TRY(pool.deactivate(pool.id_of(name)));
  TRY(pool.forget(entry.thin_id));
  return pool.change([&name](ThinState& state) -> Result<> {
    state.entries.erase(name);
    return {};
  });
}

class PreparedThin final : public PreparedSnapshot {
 public:
  struct Part {
    std::string name;
    ThinDevice volume;
    ThinEntry entry;
    bool active = false;  // the volume is a device, which may be written to
  };

  PreparedThin(ThinPool& pool, std::vector<Part> parts) : pool_(pool), parts_(std::move(parts)) {}

  // Has the process ready that would resume the volumes.
  Result<> set_guard() {
    std::vector<std::string> volumes;
    for (const Part& part : parts_) {
      if (part.active) volumes.push_back(part.volume.id);
    }
    guard_.emplace(TRY(pool_.of_array(ResumeGuard::make(
        [&device_mapper = pool_.device_mapper(), volumes] {
          device_mapper.after_fork();
          for (const std::string& id : volumes) static_cast<void>(device_mapper.resume(id).ok());
        },
        pool_.config().take_limit_ms))));
    return {};
  }

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedThin() override {
    if (finished_) return;
    for (const Part& part : parts_) static_cast<void>(drop(pool_, part.name, part.entry).ok());
  }

  Result<> take() override {
    guard_->begin();
    Result<> taken = take_held();
    // Whatever happened, and each of them.
    bool all_resumed = true;
    for (const std::string& id : held_) {
      Result<> resumed = pool_.of_array(pool_.device_mapper().resume(id));
      if (resumed) continue;
      all_resumed = false;
      if (taken) taken = std::move(resumed);
    }
    // Without its end the guard steps in, and tries once more.
    const bool in_time = all_resumed && guard_->end();
    guard_.reset();
    if (in_time || !taken) return taken;
    return pool_.error(
        fmt::format("the snapshots took longer than {} ms, and the volumes went on "
                    "meanwhile",
                    pool_.config().take_limit_ms));
  }

  Result<std::vector<ArraySnapshot>> finish() override {
    // The pool commits its metadata with each message; a pool in trouble may have lost it.
    TRY(pool_.check());
    TRY(pool_.change([this](ThinState& state) -> Result<> {
      for (const Part& part : parts_) state.entries[part.name].whole = true;
      return {};
    }));
    finished_ = true;
    std::vector<ArraySnapshot> made;
    for (const Part& part : parts_) {
      made.push_back(
          {pool_.id_of(part.name), part.name, part.volume.id, part.entry.size_bytes, true});
    }
    return made;
  }

 private:
  Result<> take_held() {
    for (const Part& part : parts_) {
      if (!part.active) continue;
      // Even a suspend that fails may have begun.
      held_.push_back(part.volume.id);
      TRY(pool_.of_array(pool_.device_mapper().suspend(part.volume.id)));
    }
    for (const Part& part : parts_) {
      TRY(pool_.message(fmt::format("create_snap {} {}", part.entry.thin_id, part.volume.thin_id)));
    }
    return {};
  }

  ThinPool& pool_;
  const std::vector<Part> parts_;
  std::optional<ResumeGuard> guard_;
  std::vector<std::string> held_;
  bool finished_ = false;
};

class DmThinArray final : public ArrayProvider {
 public:
  DmThinArray(const DmThinConfig& config, std::unique_ptr<DeviceMapper> device_mapper)
      : pool_(config, std::move(device_mapper)) {}

  const std::string& name() const override { return pool_.config().name; }
  Abilities abilities() const override { return {.group = true, .provisions = true}; }

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
  Result<> health() override { return pool_.check(); }

 private:
  // A volume, made here or by the administrator, that is whole.
  Result<ThinDevice> volume(const ThinState& state, const std::string& id);
  Result<std::pair<std::string, ThinEntry>> snapshot(const ThinState& state, const std::string& id);
  Result<ArrayVolume> make(const std::string& name, uint64_t size_bytes, const std::string& action);
  Result<> release(const ThinDevice& volume);
  Result<> show(const ThinDevice& volume);

  ThinPool pool_;
};

Result<ThinDevice> DmThinArray::volume(const ThinState& state, const std::string& id) {
  if (const auto name = pool_.name_in(id)) {
    const auto entry = state.entries.find(*name);
    if (entry != state.entries.end() && !entry->second.snapshot && entry->second.whole) {
      return ThinDevice{id, entry->second.thin_id, entry->second.size_bytes};
    }
    return pool_.error(fmt::format("there is no whole volume {}", id));
  }
  // Between two contents it may have no table of its own.
  const auto restore = state.restores.find(id);
  if (restore != state.restores.end()) {
    return ThinDevice{id, restore->second.thin_id, restore->second.size_bytes};
  }
  const auto found = TRY(pool_.foreign(id));
  if (found) return *found;
  return pool_.error(fmt::format("the volume {} is not active, or not of this pool", id));
}

Result<std::pair<std::string, ThinEntry>> DmThinArray::snapshot(const ThinState& state,
                                                                const std::string& id) {
  const auto name = pool_.name_in(id);
  const auto entry = name ? state.entries.find(*name) : state.entries.end();
  if (entry != state.entries.end() && entry->second.snapshot && entry->second.whole) {
    return std::pair(*name, entry->second);
  }
  return pool_.error(fmt::format("there is no whole snapshot {}", id));
}

Result<std::optional<ArrayVolume>> DmThinArray::find(const DiskMedium& medium) {
  const auto lun = pool_.config().luns.find(medium.wwn);
  const bool configured = lun != pool_.config().luns.end();
  const std::string id =
      configured ? lun->second : pool_.device_mapper().name_of(medium.device).value_or("");
  if (id.empty()) return std::optional<ArrayVolume>();
  if (!configured && !pool_.name_in(id) && !TRY(pool_.foreign(id))) {
    return std::optional<ArrayVolume>();
  }
  const ThinState state = TRY(pool_.state());
  const ThinDevice device = TRY(volume(state, id));
  return std::optional<ArrayVolume>(
      {device.id, pool_.name_in(id).value_or(id), device.size_bytes, true});
}

Result<std::unique_ptr<PreparedSnapshot>> DmThinArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  TRY(pool_.check());
  std::vector<PreparedThin::Part> parts;
  TRY(pool_.change([&](ThinState& state) -> Result<> {
    for (const SnapshotRequest& request : requests) {
      const ThinDevice device = TRY(volume(state, request.volume.id));
      const auto info = TRY(pool_.of_array(pool_.device_mapper().info(device.id)));
      if (info && info->suspended) {
        return pool_.error(fmt::format("{} is suspended by somebody else", device.id));
      }
      const ThinEntry entry =
          TRY(reserve(pool_, state, request.name,
                      {.snapshot = true, .origin = device.id, .size_bytes = device.size_bytes}));
      parts.push_back({request.name, device, entry, info.has_value()});
    }
    return {};
  }));
  auto prepared = std::make_unique<PreparedThin>(pool_, std::move(parts));
  TRY(prepared->set_guard());
  return prepared;
}

// `action` is the message without the new thin id, which comes first after its word.
Result<ArrayVolume> DmThinArray::make(const std::string& name, uint64_t size_bytes,
                                      const std::string& action) {
  ThinEntry entry;
  TRY(pool_.change([&](ThinState& state) -> Result<> {
    entry = TRY(reserve(pool_, state, name, {.size_bytes = size_bytes}));
    return {};
  }));
  const size_t space = action.find(' ');
  const std::string rest = space == std::string::npos ? "" : action.substr(space);
  Result<> made =
      pool_.message(fmt::format("{} {}{}", action.substr(0, space), entry.thin_id, rest));
  if (made) made = keep(pool_, name);
  if (!made) {
    static_cast<void>(drop(pool_, name, entry).ok());
    return std::move(made).error();
  }
  return ArrayVolume{pool_.id_of(name), name, size_bytes, true};
}

Result<ArrayVolume> DmThinArray::clone(const std::string& snapshot_id, const std::string& name) {
  TRY(check_array_name(this->name(), name));
  TRY(pool_.check());
  const ThinState state = TRY(pool_.state());
  const ThinEntry from = TRY(snapshot(state, snapshot_id)).second;
  return make(name, from.size_bytes, fmt::format("create_snap {}", from.thin_id));
}

Result<ArrayVolume> DmThinArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  TRY(pool_.check());
  if (size_bytes == 0 || size_bytes % kSizeGranule != 0) {
    return pool_.error(fmt::format("a volume of {} bytes cannot be made; give a multiple of {}",
                                   size_bytes, kSizeGranule));
  }
  return make(name, size_bytes, "create_thin");
}

// The pool lets go of a thin id only while no table has it.
Result<> DmThinArray::release(const ThinDevice& volume) {
  const uint64_t sectors = volume.size_bytes / kSectorBytes;
  if (!pool_.active(volume.id)) return pool_.forget(volume.thin_id);
  TRY(pool_.of_array(pool_.device_mapper().reload(volume.id, {sectors, "error", ""})));
  Result<> forgotten = pool_.forget(volume.thin_id);
  if (!forgotten) static_cast<void>(show(volume).ok());
  return forgotten;
}

// The device of a volume, if it is one, has its thin id again.
Result<> DmThinArray::show(const ThinDevice& volume) {
  if (!pool_.active(volume.id)) return {};
  const std::string words = fmt::format("{} {}", TRY(pool_.number()), volume.thin_id);
  return pool_.of_array(
      pool_.device_mapper().reload(volume.id, {volume.size_bytes / kSectorBytes, "thin", words}));
}

// The volume keeps its thin id and its device, which may stay open.
Result<> DmThinArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  TRY(pool_.check());
  ThinDevice target;
  uint32_t from = 0;
  TRY(pool_.change([&](ThinState& state) -> Result<> {
    const auto [name, entry] = TRY(snapshot(state, snapshot_id));
    if (entry.origin != volume_id) {
      return pool_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
    }
    target = TRY(volume(state, volume_id));
    from = entry.thin_id;
    if (const auto user = TRY(pool_.user_of(volume_id))) {
      return Error{ErrorKind::kLocked, 0,
                   pool_.error(fmt::format("{} is {}", volume_id, *user)).message};
    }
    state.restores[volume_id] = {target.thin_id, target.size_bytes, name};
    return {};
  }));
  Result<> released = release(target);
  if (released) {
    TRY(pool_.message(fmt::format("create_snap {} {}", target.thin_id, from)));
    TRY(show(target));
  }
  // It has a content again, the new one or still the old.
  TRY(pool_.change([&volume_id](ThinState& state) -> Result<> {
    state.restores.erase(volume_id);
    return {};
  }));
  return released;
}

Result<MappedVolume> DmThinArray::map(const std::string& id) {
  const ThinState state = TRY(pool_.state());
  const auto name = pool_.name_in(id);
  const auto entry = name ? state.entries.find(*name) : state.entries.end();
  const bool is_snapshot = entry != state.entries.end() && entry->second.snapshot;
  ThinDevice device;
  if (is_snapshot) {
    TRY(snapshot(state, id));
    device = {id, entry->second.thin_id, entry->second.size_bytes};
  } else {
    device = TRY(volume(state, id));
  }
  MappedVolume mapped;
  mapped.device = TRY(pool_.activate(device, is_snapshot));
  mapped.wwn = TRY(pool_.identity_of(id));
  return mapped;
}

// A volume of the administrator's was a device before, and stays one.
Result<> DmThinArray::unmap(const std::string& id) {
  return pool_.name_in(id) ? pool_.deactivate(id) : Result<>();
}

Result<> DmThinArray::remove(const std::string& id) {
  const auto name = pool_.name_in(id);
  if (!name) return pool_.error(fmt::format("{} was not made here, and is not removed", id));
  const ThinState state = TRY(pool_.state());
  const auto entry = state.entries.find(*name);
  if (entry == state.entries.end()) return {};
  return drop(pool_, *name, entry->second);
}

Result<std::vector<ArraySnapshot>> DmThinArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> all;
  const ThinState state = TRY(pool_.state());
  for (const auto& [name, entry] : state.entries) {
    if (!entry.snapshot || !name.starts_with(prefix)) continue;
    all.push_back({pool_.id_of(name), name, entry.origin, entry.size_bytes, entry.whole});
  }
  return all;
}

Result<std::vector<ArrayVolume>> DmThinArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> all;
  const ThinState state = TRY(pool_.state());
  for (const auto& [name, entry] : state.entries) {
    if (entry.snapshot || !name.starts_with(prefix)) continue;
    all.push_back({pool_.id_of(name), name, entry.size_bytes, entry.whole});
  }
  return all;
}

Result<ArrayCapacity> DmThinArray::capacity() {
  const ThinPoolStatus status = TRY(pool_.status());
  const uint64_t block = TRY(pool_.block_bytes());
  return ArrayCapacity{status.data_blocks * block,
                       (status.data_blocks - status.used_data_blocks) * block};
}

}  // namespace

std::unique_ptr<ArrayProvider> make_dm_thin_array(const DmThinConfig& config,
                                                  std::unique_ptr<DeviceMapper> device_mapper) {
  return std::make_unique<DmThinArray>(config, std::move(device_mapper));
}

}  // namespace plumb
