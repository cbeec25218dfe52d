// One template as a stream of bytes, to a file or a pipe: docs/formats/template-stream.md. Zeroes
// take no room, every piece has a checksum, and a stream without its end is told from a whole one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace plumb {

inline constexpr size_t kMaxTemplateHeaderBytes = size_t{16} << 20U;
inline constexpr uint32_t kMaxPieceBytes = 1U << 20U;

// What begins each piece; little-endian.
struct PieceHeader {
  static constexpr size_t kBytes = 24;
  enum class Kind : uint32_t { kData = 1, kEnd = 2 };

  Kind kind = Kind::kData;
  uint32_t disk = 0;
  uint64_t offset = 0;  // of kEnd: how many pieces came before
  uint32_t length = 0;
  uint32_t crc32c = 0;  // of the 20 bytes before it, and of the data
};
std::array<std::byte, PieceHeader::kBytes> print_piece(const PieceHeader& piece);
// Errors: an unknown kind, more than kMaxPieceBytes. Pure.
Result<PieceHeader> parse_piece(std::span<const std::byte, PieceHeader::kBytes> bytes);
// The checksum that `piece` has to have with that data.
uint32_t checksum_of(const PieceHeader& piece, std::span<const std::byte> data);

class TemplateWriter {
 public:
  // `fd` stays the caller's; `name` is for messages.
  TemplateWriter(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  Result<> begin(const nlohmann::json& header);
  // The content of a disk from a path, `size_bytes` of it; disks in their order.
  Result<> disk(uint32_t number, const std::string& path, uint64_t size_bytes);
  Result<> end();

 private:
  Result<> piece(PieceHeader header, std::span<const std::byte> data);

  int fd_;
  std::string name_;
  uint64_t pieces_ = 0;
};

class TemplateReader {
 public:
  TemplateReader(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  Result<nlohmann::json> begin();
  // Writes the content of a disk to a path, and makes it durable; disks in their order. What the
  // stream does not have is taken to read as zeroes there.
  Result<> disk(uint32_t number, const std::string& path, uint64_t size_bytes);
  // That the stream is whole; anything behind its end is not looked at.
  Result<> end();

 private:
  Error broken(std::string_view why) const;
  Result<> read_exactly(std::span<std::byte> to);
  Result<> next();

  int fd_;
  std::string name_;
  uint64_t pieces_ = 0;
  std::optional<PieceHeader> piece_;  // read, and not yet used
  std::vector<std::byte> data_;       // of piece_
};

}  // namespace plumb
