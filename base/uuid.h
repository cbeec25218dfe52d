// Uuid: 128 bits that name something, RFC 4122.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb {

class Uuid {
 public:
  static constexpr size_t kSize = 16;
  using Bytes = std::array<std::byte, kSize>;

  // All zeroes, the nil UUID.
  Uuid() = default;

  // "3f2504e0-4f89-41d3-9a0c-0305e82c3301" in either case, of any version. Errors: kUsage.
  static Result<Uuid> parse(std::string_view text);
  // Version 4. Errors: the kernel has no random numbers.
  static Result<Uuid> random();
  // Version 5: the same for the same name in the same name space, as `uuidgen --sha1` makes it.
  static Uuid derived(const Uuid& name_space, std::string_view name);

  // Lower case, with dashes.
  std::string text() const;
  // In the order of the text.
  const Bytes& bytes() const { return bytes_; }
  // As a GUID lies in memory: its first three fields are little-endian (SMBIOS 3.0, section
  // 7.2.1; UEFI 2.10, appendix A).
  Bytes guid_bytes() const;

  bool operator==(const Uuid&) const = default;

 private:
  explicit Uuid(const Bytes& bytes) : bytes_(bytes) {}

  Bytes bytes_{};
};

}  // namespace plumb
