// The host's end of a guest's network interface: a tap interface, and its name and MAC address.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

using MacAddress = std::array<uint8_t, 6>;

// "52:54:00:12:34:56". Errors: not six pairs of hexadecimal digits, a group address, all zero.
Result<MacAddress> parse_mac(std::string_view text);

// Attaches to an existing tap interface; frames come and go behind a virtio-net header of
// VirtioNet::kHeaderBytes, without blocking. Errors: it does not exist, is used by another VM, is
// no tap, or we may not.
Result<UniqueFd> open_tap(const std::string& name);

// Asks the tap to take (0: not to take) packets that need segmentation and checksums done later,
// for the guest. False when it cannot.
bool set_tap_offloads(int fd, unsigned tun_flags);

}  // namespace plumb
