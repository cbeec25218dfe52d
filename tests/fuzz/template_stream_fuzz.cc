// An exported template: any bytes are one or give a sentence, and a piece prints as it was read.
// Tried as they are, as a piece, and behind a good header.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/unique_fd.h"
#include "snapshot/template_stream.h"

namespace {

using plumb::PieceHeader;

constexpr uint64_t kDiskBytes = 1U << 16U;

void read(int fd) {
  plumb::TemplateReader reader(fd, "fuzz");
  plumb::Result<nlohmann::json> header = reader.begin();
  if (!header) return ENSURE(!header.error().message.empty());
  static const plumb::UniqueFd disk(::memfd_create("disk", 0));
  const std::string path = "/proc/self/fd/" + std::to_string(disk.get());
  for (uint32_t number = 0; number < 2; ++number) {
    if (!reader.disk(number, path, kDiskBytes)) return;
  }
  static_cast<void>(reader.end());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= PieceHeader::kBytes) {
    std::array<std::byte, PieceHeader::kBytes> bytes;
    std::memcpy(bytes.data(), data, bytes.size());
    plumb::Result<PieceHeader> piece = plumb::parse_piece(bytes);
    if (piece) ENSURE(plumb::print_piece(*piece) == bytes);
  }
  const plumb::UniqueFd stream(::memfd_create("stream", 0));
  ENSURE(::write(stream.get(), data, size) == static_cast<ssize_t>(size));
  ::lseek(stream.get(), 0, SEEK_SET);
  read(stream.get());
  // With a good header, and each piece's checksum made right.
  ENSURE(::ftruncate(stream.get(), 0) == 0);
  ::lseek(stream.get(), 0, SEEK_SET);
  plumb::TemplateWriter writer(stream.get(), "fuzz");
  ENSURE(writer.begin(nlohmann::json::object()).ok());
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  for (size_t at = 0; at + PieceHeader::kBytes <= size;) {
    std::array<std::byte, PieceHeader::kBytes> head;
    std::memcpy(head.data(), bytes + at, head.size());
    at += head.size();
    plumb::Result<PieceHeader> piece = plumb::parse_piece(head);
    if (!piece) break;
    piece->offset %= 2 * kDiskBytes;
    piece->disk %= 3;
    piece->length = static_cast<uint32_t>(std::min<size_t>(piece->length, size - at));
    const std::span<const std::byte> content(bytes + at, piece->length);
    piece->crc32c = plumb::checksum_of(*piece, content);
    head = plumb::print_piece(*piece);
    ENSURE(::write(stream.get(), head.data(), head.size()) == static_cast<ssize_t>(head.size()));
    ENSURE(::write(stream.get(), content.data(), content.size()) ==
           static_cast<ssize_t>(content.size()));
    at += content.size();
  }
  ::lseek(stream.get(), 0, SEEK_SET);
  read(stream.get());
  return 0;
}
