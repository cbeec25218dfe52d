// write-pace: how long each of a guest's writes takes, one every so often, for what the host does
// to the guest meanwhile: a freeze, a snapshot of another. The trace goes to a disk of its own,
// which the host reads while the guest goes on; so nothing is printed where each character is dear.
//
//   write-pace run FILE TRACE PAUSE_MS    in the guest: writes 4 KiB at random in FILE, durably
//   write-pace last TRACE                 on the host: prints the number of the last write
//   write-pace since TRACE FIRST          its number and microseconds of each from FIRST on
//
// Block N % BLOCKS of the trace is of write N. For the lab's case bench-freeze.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_memory.h"
#include "base/file.h"

namespace plumb {
namespace {

constexpr uint64_t kMagic = 0x65'63'61'70'2d'65'74'77;
constexpr uint64_t kBlock = 4096;
constexpr uint64_t kFileBlocks = 2048;  // of a file that is not there yet

struct Record {
  uint64_t magic;
  uint64_t number;
  uint64_t took_us;
};

uint64_t number_in(std::string_view text) {
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

Result<uint64_t> blocks_in(int fd) {
  const off_t bytes = ::lseek(fd, 0, SEEK_END);
  if (bytes < 0) return os_error(errno, "the size is not known");
  return static_cast<uint64_t>(bytes) / kBlock;
}

Result<> write_block(int fd, uint64_t block, const std::byte* memory) {
  const auto at = static_cast<off_t>(block * kBlock);
  if (::pwrite(fd, memory, kBlock, at) == static_cast<ssize_t>(kBlock)) return {};
  return os_error(errno, "block {} cannot be written", block);
}

// For ever: only an error ends it.
Result<> run(const std::string& path, const std::string& trace_path, unsigned pause_ms) {
  const UniqueFd file = TRY(open_file("file", path, O_RDWR | O_CREAT | O_DIRECT | O_DSYNC));
  const UniqueFd trace = TRY(open_file("trace", trace_path, O_RDWR | O_DIRECT | O_DSYNC));
  const AlignedMemory content = aligned_memory(kBlock);
  const AlignedMemory noted = aligned_memory(kBlock);
  std::memset(content.get(), 0x5a, kBlock);
  std::memset(noted.get(), 0, kBlock);
  uint64_t blocks = TRY(blocks_in(file.get()));
  for (uint64_t block = 0; blocks == 0 && block < kFileBlocks; ++block) {
    TRY(write_block(file.get(), block, content.get()));
  }
  blocks = TRY(blocks_in(file.get()));
  const uint64_t trace_blocks = TRY(blocks_in(trace.get()));
  std::mt19937_64 random(1);
  for (uint64_t number = 1;; ++number) {
    const auto began = std::chrono::steady_clock::now();
    TRY(write_block(file.get(), random() % blocks, content.get()));
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
    const Record record{kMagic, number, static_cast<uint64_t>(took.count())};
    std::memcpy(noted.get(), &record, sizeof record);
    TRY(write_block(trace.get(), number % trace_blocks, noted.get()));
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
  }
}

// All that the trace still has, in no order; one that is being written may be missing.
Result<std::vector<Record>> read_trace(const std::string& path) {
  const UniqueFd trace = TRY(open_file("trace", path, O_RDONLY | O_DIRECT));
  const uint64_t blocks = TRY(blocks_in(trace.get()));
  const AlignedMemory memory = aligned_memory(blocks * kBlock);
  std::vector<Record> all;
  for (uint64_t at = 0; at < blocks * kBlock;) {
    const ssize_t got =
        ::pread(trace.get(), memory.get() + at, blocks * kBlock - at, static_cast<off_t>(at));
    if (got <= 0) return os_error(errno, "{} cannot be read", path);
    at += static_cast<uint64_t>(got);
  }
  for (uint64_t block = 0; block < blocks; ++block) {
    Record record;
    std::memcpy(&record, memory.get() + block * kBlock, sizeof record);
    if (record.magic == kMagic) all.push_back(record);
  }
  return all;
}

Result<> print_trace(std::string_view what, const std::string& path, uint64_t first) {
  std::vector<Record> all = TRY(read_trace(path));
  std::ranges::sort(all, {}, &Record::number);
  if (what == "last") {
    fmt::print("{}\n", all.empty() ? 0 : all.back().number);
    return {};
  }
  for (const Record& record : all) {
    if (record.number >= first) fmt::print("{} {}\n", record.number, record.took_us);
  }
  return {};
}

Result<> main(std::span<char*> words) {
  const std::string_view what = words.size() > 1 ? words[1] : "";
  if (what == "run" && words.size() == 5) {
    return run(words[2], words[3], static_cast<unsigned>(number_in(words[4])));
  }
  if (what == "last" && words.size() == 3) return print_trace(what, words[2], 0);
  if (what == "since" && words.size() == 4) return print_trace(what, words[2], number_in(words[3]));
  return failed("usage: write-pace run FILE TRACE PAUSE_MS | last TRACE | since TRACE FIRST");
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  plumb::Result<> done = plumb::main({argv, static_cast<size_t>(argc)});
  if (done.ok()) return 0;
  fmt::print(stderr, "write-pace: {}\n", done.error().message);
  return 1;
}
