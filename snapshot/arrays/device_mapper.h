// DeviceMapper: the requests of device-mapper (linux/dm-ioctl.h) that thin volumes need. The
// kernel's by libdevmapper, or a fake.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace plumb {

// One line of a table. A device of several lines shows the type "several".
struct DmTarget {
  uint64_t sectors = 0;  // of 512 bytes
  std::string type;      // "thin"
  std::string words;     // "253:2 7"
};

struct DmInfo {
  dev_t number = 0;
  std::string uuid;
  int open_count = 0;
  bool suspended = false;
};

// Errors have the kernel's errno. One thread at a time.
class DeviceMapper {
 public:
  virtual ~DeviceMapper() = default;

  // None when there is no device of that name.
  virtual Result<std::optional<DmInfo>> info(const std::string& name) = 0;
  virtual Result<DmTarget> table(const std::string& name) = 0;
  // What its first target reports of itself.
  virtual Result<std::string> status(const std::string& name) = 0;
  virtual Result<> message(const std::string& name, const std::string& text) = 0;
  // Waits for the requests under way, freezes a file system that this host has mounted from it, and
  // holds what comes; until resume().
  virtual Result<> suspend(const std::string& name) = 0;
  virtual Result<> resume(const std::string& name) = 0;
  virtual Result<> create(const std::string& name, const std::string& uuid, const DmTarget& target,
                          bool read_only) = 0;
  // Another table for a device, which may be open.
  virtual Result<> reload(const std::string& name, const DmTarget& target) = 0;
  virtual Result<> remove(const std::string& name) = 0;

  // In a process that was forked: what it has of its parent is not used.
  virtual void after_fork() {}

  // Of a device that is there: "/dev/mapper/NAME".
  virtual std::string path_of(const std::string& name) const = 0;
  // Of any path of a device: its name; none when it is no device of device-mapper.
  virtual std::optional<std::string> name_of(const std::string& path) const = 0;
};

class KernelDeviceMapper : public DeviceMapper {
 public:
  KernelDeviceMapper();
  Result<std::optional<DmInfo>> info(const std::string& name) override;
  Result<DmTarget> table(const std::string& name) override;
  Result<std::string> status(const std::string& name) override;
  Result<> message(const std::string& name, const std::string& text) override;
  Result<> suspend(const std::string& name) override;
  Result<> resume(const std::string& name) override;
  Result<> create(const std::string& name, const std::string& uuid, const DmTarget& target,
                  bool read_only) override;
  Result<> reload(const std::string& name, const DmTarget& target) override;
  Result<> remove(const std::string& name) override;
  void after_fork() override;
  std::string path_of(const std::string& name) const override;
  std::optional<std::string> name_of(const std::string& path) const override;
};

}  // namespace plumb
