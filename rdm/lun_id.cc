#include "rdm/lun_id.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "base/uuid.h"

namespace plumb {
namespace {

// Longer than any identity: SPC-4 designators end at 255 bytes, NVMe fallback names below 400.
constexpr size_t kMaxTextBytes = 512;

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isxdigit(c) != 0; });
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
}

// The first digit of an NAA identifier says its format, and that its length.
bool is_naa(std::string_view digits) {
  if (!is_hex(digits) || digits.empty()) return false;
  switch (digits[0]) {
    case '2':
    case '3':
    case '5':
      return digits.size() == 16;
    case '6':
      return digits.size() == 32;
    default:
      return false;
  }
}

bool is_eui(std::string_view digits) {
  return is_hex(digits) && (digits.size() == 16 || digits.size() == 24 || digits.size() == 32);
}

bool is_volume_uuid(std::string_view uuid) {
  constexpr std::string_view kLvm = "LVM-";
  constexpr std::string_view kOurs = "PLUMB-";
  constexpr size_t kLvmIds = 64;  // both without their dashes; what is inside LVM has a suffix
  if (uuid.starts_with(kLvm)) {
    const std::string_view ids = uuid.substr(kLvm.size());
    return ids.size() == kLvmIds &&
           std::ranges::all_of(ids, [](unsigned char c) { return std::isalnum(c) != 0; });
  }
  return uuid.starts_with(kOurs) && uuid.size() > kOurs.size();
}

std::optional<std::string_view> after(std::string_view text, std::string_view prefix) {
  if (lower(text.substr(0, prefix.size())) != prefix) return std::nullopt;
  return text.substr(prefix.size());
}

// The canonical text, or "" when `text` has none of the forms.
std::string canonical(std::string_view text) {
  if (const auto rest = after(text, "/dev/disk/by-id/")) text = *rest;
  if (const auto rest = after(text, "nvme-eui.")) return is_eui(*rest) ? "eui." + lower(*rest) : "";
  if (const auto rest = after(text, "naa.")) return is_naa(*rest) ? "naa." + lower(*rest) : "";
  if (const auto rest = after(text, "eui.")) return is_eui(*rest) ? "eui." + lower(*rest) : "";
  if (const auto rest = after(text, "uuid.")) {
    const Result<Uuid> uuid = Uuid::parse(*rest);
    return uuid ? "uuid." + uuid.value().text() : "";
  }
  if (const auto rest = after(text, "t10."))
    return rest->empty() ? "" : "t10." + std::string(*rest);
  if (const auto rest = after(text, "nvme.")) {
    return rest->empty() ? "" : "nvme." + std::string(*rest);
  }
  if (const auto rest = after(text, "serial.")) {
    return rest->empty() ? "" : "serial." + std::string(*rest);
  }
  if (const auto rest = after(text, "dm.")) {
    return is_volume_uuid(*rest) ? "dm." + std::string(*rest) : "";
  }
  if (const auto rest = after(text, "dm-uuid-")) {
    return is_volume_uuid(*rest) ? "dm." + std::string(*rest) : "";
  }
  if (const auto rest = after(text, "wwn-0x")) return is_naa(*rest) ? "naa." + lower(*rest) : "";
  if (const auto rest = after(text, "0x")) return is_naa(*rest) ? "naa." + lower(*rest) : "";
  if (const auto rest = after(text, "3"); rest && is_naa(*rest)) return "naa." + lower(*rest);
  return "";
}

}  // namespace

Result<LunId> LunId::parse(std::string_view text) {
  std::string id;
  if (text.size() <= kMaxTextBytes && is_printable(text)) id = canonical(text);
  if (id.empty()) {
    return usage_error(
        "'{}' is not the identity of a LUN; write it as `plumb lun list` shows it, for example "
        "naa.600140512345678 followed by the rest of its 32 digits",
        is_printable(text) ? text.substr(0, 80) : std::string_view("(unprintable)"));
  }
  return LunId(std::move(id));
}

Result<LunId> LunId::from_multipath_uuid(std::string_view uuid) {
  const auto name = after(uuid, "mpath-");
  std::string id;
  if (name && name->size() > 1 && name->size() <= kMaxTextBytes && is_printable(*name)) {
    // The first digit is the designator type of SPC-4 table 531; NVMe maps carry the wwid itself.
    const std::string_view rest = name->substr(1);
    if ((*name)[0] == '3' && is_naa(rest)) id = "naa." + lower(rest);
    if ((*name)[0] == '2' && is_eui(rest)) id = "eui." + lower(rest);
    if ((*name)[0] == '1') id = "t10." + std::string(rest);
    if (id.empty()) id = canonical(*name);
  }
  if (id.empty()) return failed("'{}' is not the UUID of a multipath map", uuid.substr(0, 80));
  return LunId(std::move(id));
}

Result<LunId> LunId::from_volume_uuid(std::string_view uuid) {
  if (uuid.size() <= kMaxTextBytes && is_printable(uuid) && is_volume_uuid(uuid)) {
    return LunId(fmt::format("dm.{}", uuid));
  }
  return failed("'{}' is not the UUID of a volume", uuid.substr(0, 80));
}

Result<LunId> LunId::from_serial(std::string_view vendor, std::string_view model,
                                 std::string_view serial) {
  if (serial.empty()) return failed("a LUN has neither identity nor serial number");
  std::string text = fmt::format("serial.{}_{}_{}", vendor, model, serial);
  std::ranges::replace(text, ' ', '_');
  return parse(text);
}

bool LunId::weak() const {
  return text_.starts_with("t10.") || text_.starts_with("nvme.") || text_.starts_with("serial.");
}

}  // namespace plumb
