// What a VM's process and its keeper tell each other: messages of a SOCK_SEQPACKET socket, JSON
// with descriptors beside it. Pure, but that the descriptors of a source change hands.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/lun_keeper.h"

namespace plumb {

inline constexpr size_t kKeeperMessageLimit = 16384;

// From the VM.
struct KeeperRequest {
  enum class Action : uint8_t {
    kWatch,    // `lun`, whose descriptor comes along
    kUnwatch,  // lun.disk
    kLook,     // at lun.disk, and claim it if it has come back as another device
  };
  Action action = Action::kLook;
  std::string disk;
  std::string wwn;  // the rest: for kWatch
  bool read_only = false;
  bool allow_weak_identity = false;
  bool shared = false;
  bool discard = true;
};
std::vector<std::byte> encode_keeper_request(const KeeperRequest& request);
Result<KeeperRequest> decode_keeper_request(std::span<const std::byte> bytes);

// To the VM: the answer to kLook, news that nobody asked for, or, for kWatch, a refusal.
struct KeeperReport {
  enum class About : uint8_t { kLook, kNews, kRefusal };
  About about = About::kLook;
  std::string disk;
  LunFinding finding;  // of a refusal: the reason
};
std::vector<std::byte> encode_keeper_report(const KeeperReport& report);
// `fds` are the source's, of a finding that is new.
Result<KeeperReport> decode_keeper_report(std::span<const std::byte> bytes,
                                          std::vector<UniqueFd> fds);

}  // namespace plumb
