// The overlay of a copy-before-write snapshot, as bytes: docs/formats/cow-overlay.md has the
// format, its write order and why it is so.
//
// Pages of 4 KiB: header, link, state, the table (one bit for each grain), then the grains, each at
// the place that it has on the disk. Each of the first three is a record of 512 bytes, which every
// medium writes whole or not at all, and zeroes. Little endian. All functions are pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

inline constexpr uint32_t kCowPageBytes = 4096;
inline constexpr uint64_t kCowHeaderAt = 0;
inline constexpr uint64_t kCowLinkAt = 4096;
inline constexpr uint64_t kCowStateAt = 8192;
inline constexpr uint64_t kCowTableAt = 12288;
inline constexpr uint64_t kCowGrainsPerPage = uint64_t{8} * kCowPageBytes;
inline constexpr uint32_t kCowVersion = 1;
inline constexpr uint32_t kCowGrainBytes = 64U << 10U;  // of overlays made here
inline constexpr uint64_t kCowMaxBaseBytes = 1ULL << 50U;
inline constexpr size_t kCowMaxTextBytes = 256;

// The records on the medium.
struct CowHeaderRecord {
  char magic[8];    // "plumbcow"
  uint32_t crc32c;  // of the record's 512 bytes, with zeroes here
  uint32_t version;
  char uuid[36];
  uint32_t grain_bytes;
  uint64_t base_bytes;
  uint64_t limit_bytes;
  char disk[256];
  uint8_t zeroes[184];
};
struct CowLinkRecord {
  char magic[8];  // "plumblnk"
  uint32_t crc32c;
  uint32_t has_older;
  char uuid[36];
  char older[36];
  uint8_t zeroes[424];
};
struct CowStateRecord {
  char magic[8];  // "plumbsta"
  uint32_t crc32c;
  uint32_t condition;
  char uuid[36];
  uint32_t base_is_file;
  uint64_t opens;
  uint64_t base_bytes;
  int64_t base_mtime_ns;
  int64_t base_ctime_ns;
  char reason[256];
  uint8_t zeroes[168];
};
static_assert(sizeof(CowHeaderRecord) == 512 && sizeof(CowLinkRecord) == 512 &&
              sizeof(CowStateRecord) == 512);
static_assert(offsetof(CowHeaderRecord, base_bytes) == 56 && offsetof(CowHeaderRecord, disk) == 72);
static_assert(offsetof(CowStateRecord, opens) == 56 && offsetof(CowStateRecord, reason) == 88);

struct CowHeader {
  std::string uuid;  // of the snapshot: RFC 4122, lower case
  std::string disk;  // which disk it is of: an image's or a LUN's identity
  uint64_t base_bytes = 0;
  uint32_t grain_bytes = kCowGrainBytes;  // a power of two from 4 KiB to 1 MiB
  uint64_t limit_bytes = 0;               // of grains kept; 0: none
};

struct CowLink {
  std::string uuid;   // of this overlay
  std::string older;  // of the one that leans on it; "" for the oldest
};

enum class CowCondition : uint32_t {
  kClean = 1,   // no VM has it; the disk was as CowState::base says when the last one let it go
  kOpen = 2,    // a VM has it, or had it and did not get to letting it go
  kSealed = 3,  // a newer overlay takes what is overwritten now
  kBroken = 4,  // the snapshot, and those that lean on it, are not whole any more
};

// What the disk was like, as far as that can be seen without reading it.
struct CowBaseStamp {
  bool file = false;  // an image: with times
  uint64_t size_bytes = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;
  bool operator==(const CowBaseStamp&) const = default;
};

struct CowState {
  std::string uuid;  // of this overlay
  CowCondition condition = CowCondition::kOpen;
  uint64_t opens = 0;  // how often it was opened for writing
  CowBaseStamp base;   // of kClean
  std::string reason;  // of kBroken; longer ones are cut
};

using CowPage = std::array<std::byte, kCowPageBytes>;
using CowPageView = std::span<const std::byte, kCowPageBytes>;

// Each prints a page that parses as the same; the values are what parse accepts.
CowPage print_cow_header(const CowHeader& header);
CowPage print_cow_link(const CowLink& link);
CowPage print_cow_state(const CowState& state);

// Errors, each one sentence that names `label`: no overlay, another version, a wrong checksum, a
// value that cannot be, bytes that should be zero; a page of another overlay than `uuid`.
Result<CowHeader> parse_cow_header(CowPageView page, const std::string& label);
Result<CowLink> parse_cow_link(CowPageView page, const std::string& uuid, const std::string& label);
Result<CowState> parse_cow_state(CowPageView page, const std::string& uuid,
                                 const std::string& label);

// RFC 4122, lower case.
bool is_cow_uuid(std::string_view text);

// Where things are, of a header that parsed.
uint64_t cow_grains(const CowHeader& header);
uint64_t cow_table_bytes(const CowHeader& header);  // whole pages
uint64_t cow_data_at(const CowHeader& header);
uint64_t cow_file_bytes(const CowHeader& header);

// The table: whether a grain is kept.
class CowTable {
 public:
  explicit CowTable(uint64_t grains = 0);

  uint64_t grains() const { return grains_; }
  uint64_t pages() const { return bytes_.size() / kCowPageBytes; }
  uint64_t kept() const { return kept_; }  // grains
  bool has(uint64_t grain) const {
    return (static_cast<unsigned>(bytes_[grain / 8]) >> (grain % 8) & 1U) != 0;
  }
  void add(uint64_t grain);
  // The first grain from `first` on, below `end`, that is not kept; `end` when there is none.
  uint64_t first_missing(uint64_t first, uint64_t end) const;
  CowPageView page(uint64_t index) const {
    return CowPageView(bytes_.data() + index * kCowPageBytes, kCowPageBytes);
  }
  // Takes a page as it was read. Errors, naming `label`: a bit behind the last grain.
  Result<> load(uint64_t index, CowPageView page, const std::string& label);

 private:
  uint64_t grains_;
  uint64_t kept_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace plumb
