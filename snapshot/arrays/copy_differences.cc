#include "snapshot/arrays/copy_differences.h"

#include <algorithm>
#include <vector>

namespace plumb {

Result<> copy_differences(CowFile& from, CowFile& to, uint64_t size_bytes) {
  constexpr uint64_t kReadBytes = uint64_t{1} << 20U;
  constexpr uint64_t kWriteBytes = uint64_t{64} << 10U;  // what a difference costs
  std::vector<std::byte> wanted(kReadBytes);
  std::vector<std::byte> there(kReadBytes);
  for (uint64_t offset = 0; offset < size_bytes; offset += kReadBytes) {
    const uint64_t length = std::min(kReadBytes, size_bytes - offset);
    TRY(from.read(offset, std::span(wanted).first(length)));
    TRY(to.read(offset, std::span(there).first(length)));
    for (uint64_t at = 0; at < length; at += kWriteBytes) {
      const uint64_t part = std::min(kWriteBytes, length - at);
      const std::span<const std::byte> piece = std::span(wanted).subspan(at, part);
      if (std::ranges::equal(piece, std::span(there).subspan(at, part))) continue;
      TRY(to.write(offset + at, piece));
    }
  }
  return to.sync();
}

}  // namespace plumb
