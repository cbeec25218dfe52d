#include "snapshot/template_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"
#include "base/file.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMagic = "plumb-template 1\n";

Result<> write_exactly(int fd, std::span<const std::byte> bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return os_error(errno, "{} cannot be written", name);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
  return {};
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

std::array<std::byte, PieceHeader::kBytes> print_piece(const PieceHeader& piece) {
  std::array<std::byte, PieceHeader::kBytes> bytes{};
  store_le<uint32_t>(bytes.data(), static_cast<uint32_t>(piece.kind));
  store_le<uint32_t>(bytes.data() + 4, piece.disk);
  store_le<uint64_t>(bytes.data() + 8, piece.offset);
  store_le<uint32_t>(bytes.data() + 16, piece.length);
  store_le<uint32_t>(bytes.data() + 20, piece.crc32c);
  return bytes;
}

Result<PieceHeader> parse_piece(std::span<const std::byte, PieceHeader::kBytes> bytes) {
  const auto kind = load_le<uint32_t>(bytes.data());
  PieceHeader piece{.kind = static_cast<PieceHeader::Kind>(kind),
                    .disk = load_le<uint32_t>(bytes.data() + 4),
                    .offset = load_le<uint64_t>(bytes.data() + 8),
                    .length = load_le<uint32_t>(bytes.data() + 16),
                    .crc32c = load_le<uint32_t>(bytes.data() + 20)};
  const bool data = piece.kind == PieceHeader::Kind::kData;
  if (!data && piece.kind != PieceHeader::Kind::kEnd) return failed("a piece is of no known kind");
  if (piece.length > kMaxPieceBytes || data != (piece.length > 0)) {
    return failed("a piece has {} bytes", piece.length);
  }
  return piece;
}

uint32_t checksum_of(const PieceHeader& piece, std::span<const std::byte> data) {
  const auto bytes = print_piece(piece);
  std::string all(reinterpret_cast<const char*>(bytes.data()), PieceHeader::kBytes - 4);
  all.append(reinterpret_cast<const char*>(data.data()), data.size());
  return crc32c(all);
}

Result<> TemplateWriter::begin(const Json& header) {
  const std::string text = header.dump();
  std::array<std::byte, 8> lengths{};
  store_le<uint32_t>(lengths.data(), static_cast<uint32_t>(text.size()));
  store_le<uint32_t>(lengths.data() + 4, crc32c(text));
  TRY(write_exactly(fd_, std::as_bytes(std::span(kMagic)), name_));
  TRY(write_exactly(fd_, lengths, name_));
  return write_exactly(fd_, std::as_bytes(std::span(text)), name_);
}

Result<> TemplateWriter::piece(PieceHeader header, std::span<const std::byte> data) {
  header.length = static_cast<uint32_t>(data.size());
  header.crc32c = checksum_of(header, data);
  ++pieces_;
  TRY(write_exactly(fd_, print_piece(header), name_));
  return write_exactly(fd_, data, name_);
}

Result<> TemplateWriter::disk(uint32_t number, const std::string& path, uint64_t size_bytes) {
  const UniqueFd from = TRY(open_file("disk", path, O_RDONLY));
  std::vector<std::byte> buffer(kMaxPieceBytes);
  for (uint64_t offset = 0; offset < size_bytes;) {
    // What a file has never had is passed over; a device has no holes.
    const off_t data = ::lseek(from.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data > 0) offset = std::max(offset, static_cast<uint64_t>(data));
    if (offset >= size_bytes) break;
    const size_t length = std::min<uint64_t>(buffer.size(), size_bytes - offset);
    const ssize_t got = ::pread(from.get(), buffer.data(), length, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error(errno, "{} cannot be read", path);
    if (got == 0) return failed("{} ends at {} bytes, before its {}", path, offset, size_bytes);
    const std::span read(buffer.data(), static_cast<size_t>(got));
    if (!all_zero(read)) TRY(piece({.disk = number, .offset = offset}, read));
    offset += read.size();
  }
  return {};
}

Result<> TemplateWriter::end() {
  return piece({.kind = PieceHeader::Kind::kEnd, .offset = pieces_}, {});
}

Error TemplateReader::broken(std::string_view why) const {
  return failed("{} is no whole template: {}; export it again", name_, why);
}

Result<> TemplateReader::read_exactly(std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::read(fd_, to.data(), to.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error(errno, "{} cannot be read", name_);
    if (got == 0) return broken("it ends early");
    to = to.subspan(static_cast<size_t>(got));
  }
  return {};
}

Result<Json> TemplateReader::begin() {
  std::array<std::byte, kMagic.size() + 8> start{};
  TRY(read_exactly(start));
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) {
    return failed("{} is no exported template, or one of another version", name_);
  }
  const auto length = load_le<uint32_t>(start.data() + kMagic.size());
  if (length > kMaxTemplateHeaderBytes) return broken("its header is too long");
  std::string text(length, '\0');
  TRY(read_exactly(std::as_writable_bytes(std::span(text))));
  if (crc32c(text) != load_le<uint32_t>(start.data() + kMagic.size() + 4)) {
    return broken("the checksum of its header is wrong");
  }
  Json header = Json::parse(text, nullptr, false);
  if (header.is_discarded()) return broken("its header is no JSON");
  return header;
}

// Reads a piece, unless there is one that was not used.
Result<> TemplateReader::next() {
  if (piece_) return {};
  std::array<std::byte, PieceHeader::kBytes> bytes{};
  TRY(read_exactly(bytes));
  Result<PieceHeader> piece = parse_piece(bytes);
  if (!piece) return broken(piece.error().message);
  data_.resize(piece->length);
  TRY(read_exactly(data_));
  if (checksum_of(*piece, data_) != piece->crc32c) {
    return broken(fmt::format("the checksum of piece {} is wrong", pieces_));
  }
  piece_ = *piece;
  return {};
}

Result<> TemplateReader::disk(uint32_t number, const std::string& path, uint64_t size_bytes) {
  const UniqueFd to = TRY(open_file("disk", path, O_WRONLY));
  uint64_t done = 0;
  while (true) {
    TRY(next());
    if (piece_->kind == PieceHeader::Kind::kEnd || piece_->disk > number) break;
    if (piece_->disk < number || piece_->offset < done || piece_->offset > size_bytes ||
        piece_->length > size_bytes - piece_->offset) {
      return broken(fmt::format("piece {} is not where it can be", pieces_));
    }
    for (size_t at = 0; at < data_.size();) {
      const ssize_t written = ::pwrite(to.get(), data_.data() + at, data_.size() - at,
                                       static_cast<off_t>(piece_->offset + at));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return os_error(errno, "{} cannot be written", path);
      at += static_cast<size_t>(written);
    }
    done = piece_->offset + piece_->length;
    piece_.reset();
    ++pieces_;
  }
  if (::fsync(to.get()) != 0) return os_error(errno, "{} cannot be made durable", path);
  return {};
}

Result<> TemplateReader::end() {
  TRY(next());
  if (piece_->kind != PieceHeader::Kind::kEnd) return broken("it has more disks than it says");
  if (piece_->offset != pieces_) return broken("pieces are missing");
  return {};
}

}  // namespace plumb
