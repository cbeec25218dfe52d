// ThinPool: the devices and messages of one pool of dm-thin, and its state file. The words that
// dm_thin.cc is written in.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/device_mapper.h"
#include "snapshot/arrays/dm_thin.h"
#include "snapshot/arrays/state_file.h"
#include "snapshot/arrays/thin_state.h"

namespace plumb {

// A volume or snapshot in the pool.
struct ThinDevice {
  std::string id;  // its name in device-mapper
  uint32_t thin_id = 0;
  uint64_t size_bytes = 0;
};

class ThinPool {
 public:
  ThinPool(DmThinConfig config, std::unique_ptr<DeviceMapper> device_mapper);

  const DmThinConfig& config() const { return config_; }
  DeviceMapper& device_mapper() { return *device_mapper_; }

  // "plumb.ARRAY.NAME", and back; none of what was not made here.
  std::string id_of(const std::string& name) const;
  std::optional<std::string> name_in(const std::string& id) const;

  // An error as array_provider.h wants it.
  Error error(const std::string& text) const;
  template <typename T>
  Result<T> of_array(Result<T> result) const {
    if (result) return result;
    return Error{result.error().kind, result.error().os_errno,
                 error(result.error().message).message};
  }

  // The pool's number ("253:2"). Errors: no such device, no pool, or one that belongs to LVM.
  Result<std::string> number();
  Result<ThinPoolStatus> status();
  Result<uint64_t> block_bytes();
  // An error says what is wrong.
  Result<> check();
  // What is gone already is fine.
  Result<> forget(uint32_t thin_id);
  Result<> message(const std::string& text);

  // A thin device that is no entry of the state; none when the device is not there, or not of this
  // pool.
  Result<std::optional<ThinDevice>> foreign(const std::string& id);

  // Makes it a device, or finds that it is one.
  Result<std::string> activate(const ThinDevice& device, bool read_only);
  // The reverse; an error, kLocked, when somebody has it open.
  Result<> deactivate(const std::string& id);
  // What a VM finds an active device by: LunId::text(), or "" when it has no such UUID.
  Result<std::string> identity_of(const std::string& id);
  bool active(const std::string& id);
  // Who uses the device, or nothing.
  Result<std::optional<std::string>> user_of(const std::string& id);

  // The state, for reading.
  Result<ThinState> state() const;
  // Changes it: `change(state)` under the lock, then durable.
  template <typename Change>
  Result<> change(Change change_state) {
    StateFile::Locked locked = TRY(file_.lock());
    ThinState state = TRY(parse(locked.json()));
    TRY(change_state(state));
    store_in(locked.json(), state);
    return of_array(locked.store());
  }
  // A thin id that nobody has, and that stays free until it is written down. Under change().
  Result<uint32_t> free_id(ThinState& state);

 private:
  Result<ThinState> parse(const nlohmann::json& json) const;

  const DmThinConfig config_;
  const std::unique_ptr<DeviceMapper> device_mapper_;
  const StateFile file_;
};

}  // namespace plumb
