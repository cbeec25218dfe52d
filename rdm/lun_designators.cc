#include "rdm/lun_designators.h"

#include <fmt/core.h>

#include <algorithm>
#include <string_view>

namespace plumb {
namespace {

constexpr size_t kHeaderBytes = 4;  // of the page, and of each designator
constexpr unsigned kPage = 0x83;
constexpr unsigned kSerialPage = 0x80;

// SPC-4 table 530 to 532.
enum class DesignatorType : uint8_t { kT10 = 1, kEui64 = 2, kNaa = 3, kNameString = 8 };
constexpr unsigned kAssociatedWithLun = 0;

unsigned at(std::span<const std::byte> bytes, size_t index) {
  return std::to_integer<unsigned>(bytes[index]);
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

std::string ascii(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    if (byte == std::byte{0}) break;  // name strings are padded
    text += static_cast<char>(byte);
  }
  return text;
}

// "" for a type that names no LUN.
std::string text_of(unsigned type, std::span<const std::byte> value) {
  switch (static_cast<DesignatorType>(type)) {
    case DesignatorType::kT10:
      return "t10." + ascii(value);
    case DesignatorType::kEui64:
      return "eui." + hex(value);
    case DesignatorType::kNaa:
      return "naa." + hex(value);
    case DesignatorType::kNameString:
      return ascii(value);
  }
  return "";
}

std::string without_blanks(std::string_view text) {
  std::string rest;
  std::copy_if(text.begin(), text.end(), std::back_inserter(rest),
               [](char c) { return c != ' ' && c != '_'; });
  return rest;
}

}  // namespace

std::vector<LunId> lun_names(std::span<const std::byte> page) {
  std::vector<LunId> names;
  if (page.size() < kHeaderBytes || at(page, 1) != kPage) return names;
  const size_t length = at(page, 2) << 8U | at(page, 3);
  std::span<const std::byte> rest = page.subspan(kHeaderBytes);
  rest = rest.first(std::min(length, rest.size()));
  while (rest.size() >= kHeaderBytes) {
    const size_t value_bytes = at(rest, 3);
    if (value_bytes > rest.size() - kHeaderBytes) break;
    const unsigned association = at(rest, 1) >> 4U & 3U;
    const std::string text = text_of(at(rest, 1) & 0xfU, rest.subspan(kHeaderBytes, value_bytes));
    rest = rest.subspan(kHeaderBytes + value_bytes);
    if (association != kAssociatedWithLun || text.empty()) continue;
    if (Result<LunId> id = LunId::parse(text)) names.push_back(std::move(id).value());
  }
  return names;
}

std::string unit_serial(std::span<const std::byte> page) {
  if (page.size() < kHeaderBytes || at(page, 1) != kSerialPage) return "";
  const size_t length = at(page, 2) << 8U | at(page, 3);
  std::string serial;
  for (const std::byte byte :
       page.subspan(kHeaderBytes).first(std::min(length, page.size() - kHeaderBytes))) {
    const char c = static_cast<char>(byte);
    if (c > 0x20 && c < 0x7f) serial += c;
  }
  return serial;
}

bool names_lun(const std::vector<LunId>& names, const LunId& id) {
  const std::string wanted = without_blanks(id.text());
  return std::any_of(names.begin(), names.end(), [&](const LunId& name) {
    return name == id || (id.text().starts_with("t10.") && without_blanks(name.text()) == wanted);
  });
}

}  // namespace plumb
