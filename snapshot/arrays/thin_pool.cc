#include "snapshot/arrays/thin_pool.h"

#include <sys/sysmacros.h>

#include <cerrno>
#include <sstream>
#include <utility>

#include "base/file.h"
#include "base/process.h"
#include "rdm/claim.h"
#include "rdm/lun_id.h"

namespace plumb {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr int kMaxTries = 1000;  // of thin ids that others have taken

std::string number_text(dev_t number) {
  return fmt::format("{}:{}", ::major(number), ::minor(number));
}

}  // namespace

ThinPool::ThinPool(DmThinConfig config, std::unique_ptr<DeviceMapper> device_mapper)
    : config_(std::move(config)),
      device_mapper_(std::move(device_mapper)),
      file_(config_.name, config_.state_path, "dm-thin " + config_.pool) {}

std::string ThinPool::id_of(const std::string& name) const {
  return fmt::format("plumb.{}.{}", config_.name, name);
}

std::optional<std::string> ThinPool::name_in(const std::string& id) const {
  const std::string prefix = id_of("");
  if (!id.starts_with(prefix)) return std::nullopt;
  return id.substr(prefix.size());
}

Error ThinPool::error(const std::string& text) const {
  return failed("array {} (pool {}): {}", config_.name, config_.pool, text);
}

Result<std::string> ThinPool::number() {
  const auto info = TRY(of_array(device_mapper_->info(config_.pool)));
  if (!info) return error("there is no such device; activate the pool");
  if (info->uuid.starts_with("LVM-")) {
    return error(
        "it belongs to LVM, which would not know of snapshots made here; use the provider "
        "lvm-thin");
  }
  const DmTarget table = TRY(of_array(device_mapper_->table(config_.pool)));
  if (table.type != "thin-pool") return error("the device is no thin pool but " + table.type);
  return number_text(info->number);
}

Result<ThinPoolStatus> ThinPool::status() {
  TRY(number());
  const std::string words = TRY(of_array(device_mapper_->status(config_.pool)));
  return of_array(parse_thin_pool_status(words));
}

Result<uint64_t> ThinPool::block_bytes() {
  const DmTarget table = TRY(of_array(device_mapper_->table(config_.pool)));
  // METADATA DATA BLOCK_SECTORS LOW_WATER …
  std::istringstream from(table.words);
  std::string word;
  uint64_t sectors = 0;
  if (from >> word >> word >> sectors) return sectors * kSectorBytes;
  return error("its table is not that of a thin pool");
}

Result<> ThinPool::check() {
  const std::string trouble = trouble_of(TRY(status()));
  if (trouble.empty()) return {};
  return error(trouble);
}

Result<> ThinPool::message(const std::string& text) {
  return of_array(device_mapper_->message(config_.pool, text));
}

Result<> ThinPool::forget(uint32_t thin_id) {
  Result<> told = message(fmt::format("delete {}", thin_id));
  if (!told && told.error().os_errno == ENODATA) return {};
  return told;
}

Result<std::optional<ThinDevice>> ThinPool::foreign(const std::string& id) {
  const auto info = TRY(of_array(device_mapper_->info(id)));
  if (!info) return std::optional<ThinDevice>();
  const DmTarget target = TRY(of_array(device_mapper_->table(id)));
  const auto table = parse_thin_table(target.words);
  if (target.type != "thin" || !table || table->pool != TRY(number())) {
    return std::optional<ThinDevice>();
  }
  return std::optional<ThinDevice>({id, table->thin_id, target.sectors * kSectorBytes});
}

bool ThinPool::active(const std::string& id) {
  const auto info = device_mapper_->info(id);
  return info.ok() && info.value().has_value();
}

Result<std::string> ThinPool::activate(const ThinDevice& device, bool read_only) {
  const std::string pool = TRY(number());
  const std::string words = fmt::format("{} {}", pool, device.thin_id);
  if (!active(device.id)) {
    TRY(of_array(device_mapper_->create(device.id, "PLUMB-" + device.id,
                                        {device.size_bytes / kSectorBytes, "thin", words},
                                        read_only)));
  } else {
    const auto there = TRY(foreign(device.id));
    if (!there || there->thin_id != device.thin_id) {
      return error(
          fmt::format("the device {} is there and is something else; remove it", device.id));
    }
  }
  return device_mapper_->path_of(device.id);
}

// A device that the administrator made may have no UUID, or one of another kind.
Result<std::string> ThinPool::identity_of(const std::string& id) {
  const auto info = TRY(of_array(device_mapper_->info(id)));
  const Result<LunId> found = LunId::from_volume_uuid(info ? info->uuid : "");
  return found.ok() ? found.value().text() : "";
}

Result<std::optional<std::string>> ThinPool::user_of(const std::string& id) {
  const auto info = TRY(of_array(device_mapper_->info(id)));
  if (!info || info->open_count == 0) return std::optional<std::string>();
  const SystemRoots roots;
  const std::string number = number_text(info->number);
  const std::string name = fmt::format("dm-{}", ::minor(info->number));
  const auto mounted = mount_point_in(read_attribute(roots.proc + "/self/mountinfo"), name, number);
  if (mounted) return std::optional<std::string>("mounted on " + *mounted);
  if (is_swap_in(read_attribute(roots.proc + "/swaps"), name)) {
    return std::optional<std::string>("swap");
  }
  const auto holder = process_with_device_open(info->number);
  if (holder) return std::optional<std::string>("open in " + *holder);
  return std::optional<std::string>();
}

Result<> ThinPool::deactivate(const std::string& id) {
  if (!active(id)) return {};
  if (const auto user = TRY(user_of(id))) {
    return Error{ErrorKind::kLocked, 0, error(fmt::format("{} is {}", id, *user)).message};
  }
  Result<> removed = of_array(device_mapper_->remove(id));
  if (!removed && removed.error().os_errno == EBUSY) removed.error().kind = ErrorKind::kLocked;
  return removed;
}

Result<ThinState> ThinPool::parse(const nlohmann::json& json) const {
  Result<ThinState> state = thin_state_from(json);
  if (state) return state;
  return error(fmt::format("{}: {}", file_.path(), state.error().message));
}

Result<ThinState> ThinPool::state() const { return parse(TRY(file_.read())); }

// Whether an id is free only the pool knows: it takes it, and gives it back.
Result<uint32_t> ThinPool::free_id(ThinState& state) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    const uint32_t id = state.next_id;
    state.next_id = id == kLastThinId ? kFirstThinId : id + 1;
    const Result<> made = message(fmt::format("create_thin {}", id));
    if (made) {
      TRY(forget(id));
      return id;
    }
    Result<> refused = made;
    if (refused.error().os_errno != EEXIST) return std::move(refused).error();
  }
  return error("it has no thin id that is free");
}

}  // namespace plumb
