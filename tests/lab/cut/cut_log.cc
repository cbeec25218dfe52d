// cut-log: writes and verifies the log of the power-cut rig (commit_log.h). Runs in the guest;
// verifies on the host too.
//   cut-log verify DEVICE LEDGER   all runs of the ledger; exit status 1 when something
//   acknowledged is lost cut-log write DEVICE LEDGER    all but the last run as above, then commits
//   for the last until it is killed, and
//                                  prints "ack AREA:GENERATION …" for what is committed
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/lab/cut/commit_log.h"

namespace commit_log {
namespace {

// More than the durable writes from which an image's share flushes.
constexpr uint32_t kThreads = 12;
constexpr uint32_t kCommitsPerSync = 4;
constexpr size_t kBufferAlignment = 4096;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

Buffer buffer_of(uint64_t sectors) {
  const size_t bytes = sectors * kSectorBytes;
  return Buffer(static_cast<std::byte*>(
      std::aligned_alloc(kBufferAlignment, (bytes + kBufferAlignment - 1) & -kBufferAlignment)));
}

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

class Device {
 public:
  Device(const std::string& path, int mode) : fd_(::open(path.c_str(), mode | O_DIRECT)) {
    if (fd_ < 0) fail(path);
  }
  ~Device() { ::close(fd_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  void read(std::byte* to, uint64_t sector, uint64_t count) const {
    const auto bytes = static_cast<ssize_t>(count * kSectorBytes);
    if (::pread(fd_, to, bytes, offset(sector)) != bytes) fail("read");
  }
  void write(const std::byte* from, uint64_t sector, uint64_t count) const {
    const auto bytes = static_cast<ssize_t>(count * kSectorBytes);
    if (::pwrite(fd_, from, bytes, offset(sector)) != bytes) fail("write");
  }
  void zero(uint64_t sector, uint64_t count) const {
    uint64_t range[] = {sector * kSectorBytes, count * kSectorBytes};
    if (::ioctl(fd_, BLKZEROOUT, range) != 0) fail("BLKZEROOUT");
  }
  void sync() const {
    if (::fdatasync(fd_) != 0) fail("fdatasync");
  }

 private:
  static off_t offset(uint64_t sector) { return static_cast<off_t>(sector * kSectorBytes); }
  const int fd_;
};

// Prints acknowledgements, together when several came: characters on a console are dear.
class Acknowledgements {
 public:
  void add(const std::string& words) {
    const std::lock_guard lock(mutex_);
    words_ += words;
    wake_.notify_one();
  }
  [[noreturn]] void print() {
    for (;;) {
      std::string line = "ack";
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return !words_.empty(); });
        line += words_;
        words_.clear();
      }
      line += '\n';
      if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) fail("acknowledge");
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::string words_;
};

// One of the threads that commit, with the areas that are its own.
class Writer {
 public:
  Writer(const Device& device, const Run& run, uint64_t region, uint32_t thread,
         Acknowledgements& acknowledgements)
      : device_(device), run_(run), region_(region), acknowledgements_(acknowledgements) {
    for (uint32_t area = thread; area < kAreas; area += kThreads) {
      if (area_used(run.mix, area)) areas_.push_back({area, Generations(run, area)});
    }
  }

  // In turn, so that no area gets far ahead of what left the guest.
  [[noreturn]] void commit_for_ever() {
    uint32_t uncommitted = 0;
    std::string words;
    for (;;) {
      for (auto& [area, generations] : areas_) {
        put(area, generations);
        words += ' ' + std::to_string(area) + ':' + std::to_string(generations.newest());
        if (run_.mix == Mix::kBack) {
          if (++uncommitted < kCommitsPerSync) continue;
          device_.sync();
        }
        uncommitted = 0;
        acknowledgements_.add(words);
        words.clear();
      }
    }
  }

 private:
  struct Area {
    uint32_t number;
    Generations generations;
  };

  void put(uint32_t area, Generations& generations) {
    const Commit commit = generations.next();
    const uint64_t sector = region_ * kRegionSectors + area_start(area) + commit.start;
    if (commit.zeroes) return device_.zero(sector, commit.count);
    for (uint64_t i = 0; i < commit.count; ++i) {
      fill_sector(data_.get() + i * kSectorBytes, run_.seed, area, commit.start + i,
                  generations.newest());
    }
    device_.write(data_.get(), sector, commit.count);
  }

  const Device& device_;
  const Run& run_;
  const uint64_t region_;
  Acknowledgements& acknowledgements_;
  std::vector<Area> areas_;
  Buffer data_ = buffer_of(kAppendSectors);
};

// Prints and returns whether all is there.
bool verify(const Device& device, const std::vector<Run>& runs, size_t count) {
  const Buffer region = buffer_of(kRegionSectors);
  Verdict all;
  for (size_t i = 0; i < count; ++i) {
    device.read(region.get(), i * kRegionSectors, kRegionSectors);
    const Verdict verdict = verify_region(runs[i], region.get());
    all.acknowledged += verdict.acknowledged;
    all.lost += verdict.lost;
    all.garbage += verdict.garbage;
  }
  std::printf("verified %llu acknowledged, %llu lost, %llu garbage\n",
              static_cast<unsigned long long>(all.acknowledged),
              static_cast<unsigned long long>(all.lost),
              static_cast<unsigned long long>(all.garbage));
  std::fflush(stdout);
  return all.lost == 0 && all.garbage == 0;
}

// An error in any thread ends the process by its message: std::terminate().
[[noreturn]] void write(const Device& device, const Run& run, uint64_t region) {
  Acknowledgements acknowledgements;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kThreads; ++i) {
    threads.emplace_back(
        [&, i] { Writer(device, run, region, i, acknowledgements).commit_for_ever(); });
  }
  acknowledgements.print();
}

int run(const std::string& mode, const std::string& path, const std::string& ledger) {
  const std::vector<Run> runs = read_ledger(ledger);
  if (mode == "verify") return verify(Device(path, O_RDONLY), runs, runs.size()) ? 0 : 1;
  if (mode != "write" || runs.empty()) return 2;
  const Device device(path, O_RDWR);
  if (!verify(device, runs, runs.size() - 1)) return 1;
  write(device, runs.back(), runs.size() - 1);
}

}  // namespace
}  // namespace commit_log

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: cut-log verify|write DEVICE LEDGER\n");
    return 2;
  }
  try {
    return commit_log::run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::printf("cut-log: %s\n", error.what());
    return 3;
  }
}
