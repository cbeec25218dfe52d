// LunKeeper: what the process of a VM cannot do any more once it is in its sandbox: look whether
// its LUNs are there and still the right ones, and claim one again that has come back as another
// device.
//
// It acts for LUNs whose descriptor it was shown, and for no others.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/disk_source.h"
#include "rdm/claim.h"
#include "rdm/lun_health.h"

namespace plumb {

// A LUN that a VM uses as one of its disks.
struct KeptLun {
  std::string disk;  // its id in the VM
  LunId wwn;
  ClaimOptions options;
  bool discard = true;
};

struct LunFinding {
  enum class State : uint8_t {
    kWell,    // the device in use answers, as the LUN it was
    kNew,     // it was claimed as another device: `source`
    kSilent,  // it is there, and does not answer
    kLost,    // it is not there, or not to be had
    kOther,   // it must not be used: another LUN is in its place, or it has changed
  };
  State state = State::kWell;
  std::string reason;  // half a sentence, unless well or new
  bool grown = false;  // well, and larger than when it was last looked at
  std::optional<DiskSource> source;
};

class LunKeeper {
 public:
  explicit LunKeeper(LunResolver resolver, InquirePage inquire = inquire_page)
      : resolver_(std::move(resolver)), inquire_(std::move(inquire)) {}

  // Keeps `lun`, which is the block device `number` now, in place of what that disk had before.
  // Errors: that device is no such LUN.
  Result<> watch(KeptLun lun, dev_t number);
  void unwatch(const std::string& disk) { kept_.erase(disk); }

  // How the LUN of a disk is. One that has come back as another device is claimed with `claim`, and
  // is kLost without. An unknown disk is kLost.
  LunFinding look(const std::string& disk, bool claim);

  struct News {
    std::string disk;
    LunFinding finding;
  };
  // Looks at all, and returns those that are not as they were when last looked at.
  std::vector<News> news();

 private:
  // Where the LUN was, when it was last shown.
  struct Kept {
    KeptLun lun;
    dev_t number = 0;
    std::string sequence;  // of the device's attaches (diskseq); "" where the kernel has none
    std::string address;   // of a SCSI device, "2:0:0:1"; else ""
    uint64_t size_bytes = 0;
    uint32_t logical_block_size = 0;
    bool read_only = false;
    LunFinding::State state = LunFinding::State::kWell;  // when last looked at
  };
  LunFinding find(Kept& kept, bool claim) const;
  bool present(const Kept& kept) const;
  LunFinding look_in_place(Kept& kept) const;
  LunFinding look_elsewhere(const Kept& kept, bool claim) const;
  std::optional<std::string> change_of(const Kept& kept, const Lun& lun) const;
  std::optional<std::string> successor_of(const Kept& kept) const;

  LunResolver resolver_;
  InquirePage inquire_;
  std::map<std::string, Kept> kept_;
};

}  // namespace plumb
