// What an administrator gives `plumb nbd serve`: a file of keys, and an address to listen at.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/tcp_socket.h"
#include "blockdev/nbd/psk_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto keys = plumb::nbd::parse_psk_keys(text);
  if (keys.ok()) {
    ENSURE(!keys.value().empty());
    for (const auto& one : keys.value()) {
      ENSURE(!one.user.empty() && one.key.size() >= 16 && one.key.size() <= 64);
      ENSURE(one.user.find('\0') == std::string::npos);
    }
  }
  auto address = plumb::parse_tcp_address(text);
  if (address.ok()) {
    const auto again = plumb::parse_tcp_address(address.value().text());
    ENSURE(again.ok() && again.value().text() == address.value().text());
  }
  return 0;
}
