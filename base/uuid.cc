#include "base/uuid.h"

#include <sys/random.h>

#include <algorithm>
#include <boost/uuid/name_generator_sha1.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace plumb {
namespace {

constexpr size_t kTextSize = 36;

bool has_dash_before(size_t byte) { return byte == 4 || byte == 6 || byte == 8 || byte == 10; }

}  // namespace

Result<Uuid> Uuid::parse(std::string_view text) {
  const Error error = usage_error(
      "'{}' is not a UUID, such as 3f2504e0-4f89-41d3-9a0c-0305e82c3301", text.substr(0, 80));
  if (text.size() != kTextSize) return error;
  Uuid uuid;
  for (size_t i = 0; i < kSize; ++i) {
    if (has_dash_before(i)) {
      if (text.front() != '-') return error;
      text.remove_prefix(1);
    }
    unsigned char byte = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + 2, byte, 16);
    if (status != std::errc{} || end != text.data() + 2) return error;
    uuid.bytes_[i] = std::byte{byte};
    text.remove_prefix(2);
  }
  return uuid;
}

// RFC 4122, section 4.4.
Result<Uuid> Uuid::random() {
  Bytes bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return os_error(errno, "no random number for a UUID");
  }
  bytes[6] = (bytes[6] & std::byte{0x0f}) | std::byte{0x40};
  bytes[8] = (bytes[8] & std::byte{0x3f}) | std::byte{0x80};
  return Uuid(bytes);
}

Uuid Uuid::derived(const Uuid& name_space, std::string_view name) {
  boost::uuids::uuid base{};
  std::memcpy(base.data, name_space.bytes_.data(), kSize);
  const boost::uuids::uuid made = boost::uuids::name_generator_sha1(base)(name.data(), name.size());
  Bytes bytes;
  std::memcpy(bytes.data(), made.data, kSize);
  return Uuid(bytes);
}

std::string Uuid::text() const {
  std::string text;
  for (size_t i = 0; i < kSize; ++i) {
    text += fmt::format("{}{:02x}", has_dash_before(i) ? "-" : "",
                        std::to_integer<unsigned>(bytes_[i]));
  }
  return text;
}

Uuid::Bytes Uuid::guid_bytes() const {
  Bytes guid = bytes_;
  std::reverse(guid.begin(), guid.begin() + 4);
  std::swap(guid[4], guid[5]);
  std::swap(guid[6], guid[7]);
  return guid;
}

}  // namespace plumb
