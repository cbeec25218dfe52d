#include "blockdev/nbd/psk_keys.h"

#include <algorithm>
#include <charconv>

#include "base/secret_file.h"

namespace plumb::nbd {
namespace {

constexpr size_t kFileLimitBytes = 65536;
constexpr size_t kMinKeyBytes = 16;  // 128 bits; shorter ones can be guessed
constexpr size_t kMaxKeyBytes = 64;
constexpr size_t kMaxUserBytes = 128;  // OpenSSL's PSK_MAX_IDENTITY_LEN in its older form

Result<std::string> bytes_of(std::string_view hex, size_t line) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    uint8_t byte = 0;
    const char* digits = hex.data() + i;
    const auto [end, error] = std::from_chars(digits, digits + 2, byte, 16);
    if (error != std::errc() || end != digits + 2) {
      return failed("line {}: the key is not hexadecimal", line);
    }
    bytes.push_back(static_cast<char>(byte));
  }
  if (hex.size() % 2 == 0 && bytes.size() >= kMinKeyBytes && bytes.size() <= kMaxKeyBytes) {
    return bytes;
  }
  return failed("line {}: a key has {} to {} bytes, each of two hexadecimal digits", line,
                kMinKeyBytes, kMaxKeyBytes);
}

Result<PskKey> parse_line(std::string_view text, size_t line) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon == 0 || colon > kMaxUserBytes) {
    return failed("line {} is not USER:HEXKEY; psktool makes such a line", line);
  }
  const std::string_view user = text.substr(0, colon);
  if (std::ranges::any_of(user, [](unsigned char c) { return c <= ' ' || c == 0x7f; })) {
    return failed("line {}: the name of the user has bytes that no name has", line);
  }
  std::string key = TRY(bytes_of(text.substr(colon + 1), line));
  return PskKey{std::string(user), std::move(key)};
}

}  // namespace

Result<std::vector<PskKey>> parse_psk_keys(std::string_view text) {
  std::vector<PskKey> keys;
  for (size_t line = 1; !text.empty(); ++line) {
    std::string_view one = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    if (one.ends_with('\r')) one.remove_suffix(1);
    if (one.empty() || one.starts_with('#')) continue;
    PskKey key = TRY(parse_line(one, line));
    if (std::ranges::find(keys, key.user, &PskKey::user) != keys.end()) {
      return failed("line {}: user {} has a key already", line, key.user);
    }
    keys.push_back(std::move(key));
  }
  if (!keys.empty()) return keys;
  return failed("there is no key; write one with psktool");
}

Result<std::vector<PskKey>> read_psk_keys(const std::string& path) {
  Result<std::vector<PskKey>> keys = parse_psk_keys(TRY(read_private_file(path, kFileLimitBytes)));
  if (!keys) return failed("key file {}: {}", path, keys.error().message);
  return keys;
}

}  // namespace plumb::nbd
