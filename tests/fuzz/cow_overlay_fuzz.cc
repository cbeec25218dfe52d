// An overlay of a snapshot: any page is a record that prints as the same page, or gives a sentence.
// It is also tried with a right magic and checksum, or little would get past these; and a whole
// overlay made of it is loaded, read as a snapshot, and merged.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "base/crc32c.h"
#include "blockdev/cow_overlay.h"
#include "blockdev/cow_reader.h"
#include "tests/fakes/mem_cow_file.h"

namespace {

using plumb::CowPage;

constexpr uint64_t kMostBaseBytes = 1U << 18U;
constexpr const char* kUuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

void seal(CowPage& page, const char* magic) {
  constexpr size_t kRecordBytes = 512;
  constexpr size_t kChecksumAt = 8;
  std::memcpy(page.data(), magic, kChecksumAt);
  std::memset(page.data() + kChecksumAt, 0, sizeof(uint32_t));
  const uint32_t sum = plumb::crc32c({reinterpret_cast<const char*>(page.data()), kRecordBytes});
  std::memcpy(page.data() + kChecksumAt, &sum, sizeof(sum));
}

// The record, when it is one.
template <typename Record, typename Print>
bool check(plumb::Result<Record> parsed, const CowPage& page, Print print) {
  if (!parsed.ok()) {
    ENSURE(!parsed.error().message.empty());
    return false;
  }
  ENSURE(print(parsed.value()) == page);
  return true;
}

bool parse(const CowPage& header, const CowPage& link, const CowPage& state) {
  std::string uuid = kUuid;
  plumb::Result<plumb::CowHeader> parsed = plumb::parse_cow_header(header, "fuzz");
  if (parsed.ok()) uuid = parsed->uuid;
  const bool whole = check(std::move(parsed), header, plumb::print_cow_header);
  const bool linked = check(plumb::parse_cow_link(link, uuid, "fuzz"), link, plumb::print_cow_link);
  return check(plumb::parse_cow_state(state, uuid, "fuzz"), state, plumb::print_cow_state) &&
         whole && linked;
}

// As a file: what the pages say, and a table and grains of what is left of the input.
void use(const CowPage& header, const CowPage& link, const CowPage& state, const uint8_t* data,
         size_t size) {
  plumb::Result<plumb::CowHeader> parsed = plumb::parse_cow_header(header, "fuzz");
  if (!parsed.ok() || parsed->base_bytes > kMostBaseBytes) return;
  std::vector<std::byte> overlay(plumb::cow_file_bytes(*parsed));
  std::copy(header.begin(), header.end(), overlay.begin());
  std::copy(link.begin(), link.end(), overlay.begin() + plumb::kCowLinkAt);
  std::copy(state.begin(), state.end(), overlay.begin() + plumb::kCowStateAt);
  if (size > 0) std::memcpy(overlay.data() + plumb::kCowTableAt, data, std::min(size, size_t{64}));
  std::vector<std::byte> base(parsed->base_bytes);
  plumb::CowReader::Config config;
  config.base = std::make_unique<plumb::MemCowFile>(base);
  config.overlays.push_back(std::make_unique<plumb::MemCowFile>(overlay));
  plumb::Result<std::unique_ptr<plumb::CowReader>> reader =
      plumb::CowReader::open(std::move(config));
  if (!reader.ok()) return;
  std::vector<std::byte> content(base.size());
  const plumb::Result<> read = (*reader)->read(0, content);
  (void)read;
  plumb::MemCowFile into(overlay);
  std::vector<std::byte> newer(overlay.size());
  plumb::MemCowFile from(newer);
  plumb::CowHeader other = *parsed;
  other.uuid = "3f2504e0-4f89-41d3-9a0c-0305e82c33ff";
  ENSURE(plumb::format_cow_overlay(from, other, parsed->uuid).ok());
  const bool merged = plumb::merge_cow_overlay(from, into).ok();
  ENSURE(!merged || plumb::load_cow_overlay(into).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kRecordBytes = 512;
  CowPage pages[3]{};
  for (CowPage& page : pages) {
    const size_t taken = std::min(size, kRecordBytes);
    if (taken > 0) std::memcpy(page.data(), data, taken);
    data += taken;
    size -= taken;
  }
  parse(pages[0], pages[1], pages[2]);
  seal(pages[0], "plumbcow");
  // Of one overlay, or the last two would be refused for that alone.
  std::memcpy(pages[1].data() + 16, pages[0].data() + 16, 36);
  std::memcpy(pages[2].data() + 16, pages[0].data() + 16, 36);
  seal(pages[1], "plumblnk");
  seal(pages[2], "plumbsta");
  if (parse(pages[0], pages[1], pages[2])) use(pages[0], pages[1], pages[2], data, size);
  return 0;
}

// Starts from something whole: checksums and UUIDs are not found by chance.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  constexpr size_t kRecords = 3 * 512;
  if (size < kRecords && max_size >= kRecords + 64 && seed % 4 == 0) {
    const CowPage pages[3] = {
        plumb::print_cow_header({.uuid = kUuid, .disk = "disk", .base_bytes = 300 * 512}),
        plumb::print_cow_link({.uuid = kUuid, .older = ""}),
        plumb::print_cow_state({.uuid = kUuid, .condition = plumb::CowCondition::kSealed})};
    for (size_t i = 0; i < 3; ++i) std::memcpy(data + i * 512, pages[i].data(), 512);
    std::memset(data + kRecords, 0, 64);
    return kRecords + 64;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
