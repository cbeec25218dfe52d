#include "blockdev/cow_overlay_format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.h"

namespace plumb {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kMinGrainBytes = 4096;
constexpr uint32_t kMaxGrainBytes = 1U << 20U;
constexpr uint64_t kSectorBytes = 512;
constexpr size_t kUuidBytes = 36;

template <typename Record>
uint32_t checksum(Record record) {
  record.crc32c = 0;
  return crc32c({reinterpret_cast<const char*>(&record), sizeof(record)});
}

template <typename Record>
CowPage seal(Record& record) {
  record.crc32c = checksum(record);
  CowPage page{};
  std::memcpy(page.data(), &record, sizeof(record));
  return page;
}

template <size_t kBytes>
void put(char (&to)[kBytes], std::string_view text) {
  std::memcpy(to, text.data(), std::min(kBytes, text.size()));
}

// Text that ends with the field or with zeroes; what follows a zero must be zero.
template <size_t kBytes>
bool take(const char (&from)[kBytes], std::string& text) {
  const char* end = std::find(from, from + kBytes, '\0');
  text.assign(from, end);
  return std::all_of(end, from + kBytes, [](char byte) { return byte == '\0'; });
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char byte) {
    return static_cast<unsigned char>(byte) >= 0x20 && byte != 0x7f;
  });
}

template <typename Record>
Result<Record> open(CowPageView page, std::string_view magic, const char* what,
                    const std::string& label) {
  Record record;
  std::memcpy(&record, page.data(), sizeof(record));
  if (std::memcmp(record.magic, magic.data(), magic.size()) != 0) {
    return failed("{} is no overlay of a snapshot: its {} is missing", label, what);
  }
  if (record.crc32c != checksum(record)) {
    return failed("{} is damaged: the checksum of its {} is wrong", label, what);
  }
  const auto zero = [](auto byte) { return static_cast<uint8_t>(byte) == 0; };
  if (!std::all_of(std::begin(record.zeroes), std::end(record.zeroes), zero) ||
      !std::all_of(page.begin() + sizeof(record), page.end(), zero)) {
    return failed("{} is damaged: its {} is followed by bytes that should be zero", label, what);
  }
  return record;
}

Error bad(const std::string& label, const char* what) {
  return failed("{} is damaged: its {} cannot be", label, what);
}

}  // namespace

bool is_cow_uuid(std::string_view text) {
  if (text.size() != kUuidBytes) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char byte = text[i];
    const bool hex = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
    if (dash ? byte != '-' : !hex) return false;
  }
  return true;
}

CowPage print_cow_header(const CowHeader& header) {
  CowHeaderRecord record{};
  put(record.magic, "plumbcow");
  record.version = kCowVersion;
  put(record.uuid, header.uuid);
  record.grain_bytes = header.grain_bytes;
  record.base_bytes = header.base_bytes;
  record.limit_bytes = header.limit_bytes;
  put(record.disk, header.disk);
  return seal(record);
}

Result<CowHeader> parse_cow_header(CowPageView page, const std::string& label) {
  const auto record = TRY(open<CowHeaderRecord>(page, "plumbcow", "header", label));
  if (record.version != kCowVersion) {
    return failed("{} is of version {} of the format, and only {} is known", label, record.version,
                  kCowVersion);
  }
  CowHeader header;
  header.grain_bytes = record.grain_bytes;
  header.base_bytes = record.base_bytes;
  header.limit_bytes = record.limit_bytes;
  if (!take(record.uuid, header.uuid) || !is_cow_uuid(header.uuid)) return bad(label, "UUID");
  if (!take(record.disk, header.disk) || !printable(header.disk)) return bad(label, "disk");
  if (!std::has_single_bit(header.grain_bytes) || header.grain_bytes < kMinGrainBytes ||
      header.grain_bytes > kMaxGrainBytes) {
    return bad(label, "grain");
  }
  if (header.base_bytes == 0 || header.base_bytes % kSectorBytes != 0 ||
      header.base_bytes > kCowMaxBaseBytes) {
    return bad(label, "size");
  }
  return header;
}

CowPage print_cow_link(const CowLink& link) {
  CowLinkRecord record{};
  put(record.magic, "plumblnk");
  put(record.uuid, link.uuid);
  record.has_older = link.older.empty() ? 0 : 1;
  put(record.older, link.older);
  return seal(record);
}

Result<CowLink> parse_cow_link(CowPageView page, const std::string& uuid,
                               const std::string& label) {
  const auto record = TRY(open<CowLinkRecord>(page, "plumblnk", "link", label));
  CowLink link;
  if (!take(record.uuid, link.uuid) || link.uuid != uuid) return bad(label, "link");
  if (record.has_older > 1 || !take(record.older, link.older)) return bad(label, "link");
  if (record.has_older == 0 ? !link.older.empty() : !is_cow_uuid(link.older)) {
    return bad(label, "link");
  }
  if (link.older == link.uuid) return bad(label, "link");
  return link;
}

CowPage print_cow_state(const CowState& state) {
  CowStateRecord record{};
  put(record.magic, "plumbsta");
  put(record.uuid, state.uuid);
  record.condition = static_cast<uint32_t>(state.condition);
  record.opens = state.opens;
  record.base_is_file = state.base.file ? 1 : 0;
  record.base_bytes = state.base.size_bytes;
  record.base_mtime_ns = state.base.mtime_ns;
  record.base_ctime_ns = state.base.ctime_ns;
  put(record.reason, state.reason);
  return seal(record);
}

Result<CowState> parse_cow_state(CowPageView page, const std::string& uuid,
                                 const std::string& label) {
  const auto record = TRY(open<CowStateRecord>(page, "plumbsta", "state", label));
  CowState state;
  if (!take(record.uuid, state.uuid) || state.uuid != uuid) return bad(label, "state");
  if (record.condition < static_cast<uint32_t>(CowCondition::kClean) ||
      record.condition > static_cast<uint32_t>(CowCondition::kBroken)) {
    return bad(label, "state");
  }
  state.condition = static_cast<CowCondition>(record.condition);
  state.opens = record.opens;
  if (record.base_is_file > 1) return bad(label, "state");
  state.base = {.file = record.base_is_file == 1,
                .size_bytes = record.base_bytes,
                .mtime_ns = record.base_mtime_ns,
                .ctime_ns = record.base_ctime_ns};
  if (!take(record.reason, state.reason) || !printable(state.reason)) return bad(label, "state");
  return state;
}

uint64_t cow_grains(const CowHeader& header) {
  return (header.base_bytes + header.grain_bytes - 1) / header.grain_bytes;
}

uint64_t cow_table_bytes(const CowHeader& header) {
  const uint64_t pages = (cow_grains(header) + kCowGrainsPerPage - 1) / kCowGrainsPerPage;
  return pages * kCowPageBytes;
}

uint64_t cow_data_at(const CowHeader& header) {
  const uint64_t end = kCowTableAt + cow_table_bytes(header);
  return (end + header.grain_bytes - 1) / header.grain_bytes * header.grain_bytes;
}

uint64_t cow_file_bytes(const CowHeader& header) {
  return cow_data_at(header) + cow_grains(header) * header.grain_bytes;
}

CowTable::CowTable(uint64_t grains)
    : grains_(grains),
      bytes_((grains + kCowGrainsPerPage - 1) / kCowGrainsPerPage * kCowPageBytes) {}

void CowTable::add(uint64_t grain) {
  if (has(grain)) return;
  bytes_[grain / 8] |= static_cast<std::byte>(1U << grain % 8);
  ++kept_;
}

uint64_t CowTable::first_missing(uint64_t first, uint64_t end) const {
  while (first < end) {
    if (first % 8 == 0 && bytes_[first / 8] == std::byte{0xff}) {
      first += 8;
    } else if (has(first)) {
      ++first;
    } else {
      return first;
    }
  }
  return end;
}

Result<> CowTable::load(uint64_t index, CowPageView page, const std::string& label) {
  const uint64_t first = index * kCowGrainsPerPage;
  uint64_t kept = 0;
  uint64_t before = 0;
  for (uint64_t i = 0; i < kCowPageBytes; ++i) {
    const auto bits = static_cast<uint8_t>(page[i]);
    const uint64_t at = first + i * 8;
    const uint64_t valid = at >= grains_ ? 0 : std::min<uint64_t>(grains_ - at, 8);
    if (bits >> valid != 0) return bad(label, "table");
    kept += static_cast<uint64_t>(std::popcount(bits));
    before += static_cast<uint64_t>(
        std::popcount(static_cast<uint8_t>(bytes_[index * kCowPageBytes + i])));
  }
  kept_ += kept - before;
  std::copy(page.begin(), page.end(),
            bytes_.begin() + static_cast<ptrdiff_t>(index * kCowPageBytes));
  return {};
}

}  // namespace plumb
