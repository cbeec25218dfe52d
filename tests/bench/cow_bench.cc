// cow_bench: what copy-before-write snapshots cost the writes of a disk: random 4 KiB durable
// writes through the Disk of an image, as virtio-blk sends them, with so many snapshots kept.
// Prints, for each of some bursts, writes a second with snapshots and, next to it in time, those of
// the same image without: "cold" when each is the first to its grain since the newest snapshot,
// "warm" when none is. For bench.py.
#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <semaphore>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_memory.h"
#include "base/file.h"
#include "blockdev/cow_switch.h"
#include "blockdev/disk.h"
#include "blockdev/file_device.h"

namespace plumb {
namespace {

constexpr const char* kUsage = "usage: cow_bench IMAGE FOLDER SNAPSHOTS DEPTH BURST\n";
constexpr uint32_t kBlock = 4096;
constexpr uint32_t kPiece = 1U << 20U;
constexpr size_t kBursts = 10;
constexpr size_t kFirstKept = 16;  // grains that are written before the first burst

// Sends writes, so many at once, on the disk's thread.
class Load {
 public:
  Load(Disk& disk, uint32_t depth, uint32_t bytes)
      : disk_(disk), requests_(depth), memory_(aligned_memory(bytes)), bytes_(bytes) {
    std::memset(memory_.get(), 0x5a, bytes_);
    for (Request& request : requests_) {
      request.load = this;
      request.op = BlockOp::kWrite;
      request.done = [](BlockRequest& ended) {
        auto& own = static_cast<Request&>(ended);
        own.load->ended(own);
      };
    }
  }

  // Writes a second, to all of `offsets`.
  double run(const std::vector<uint64_t>& offsets) {
    const auto began = std::chrono::steady_clock::now();
    disk_.thread().run([&] {
      offsets_ = &offsets;
      next_ = left_ = 0;
      for (Request& request : requests_) send(request);
    });
    all_ended_.acquire();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
    return static_cast<double>(offsets.size()) / taken.count();
  }

 private:
  struct Request : BlockRequest {
    Load* load = nullptr;
    iovec part{};
  };
  void send(Request& request) {
    if (next_ == offsets_->size()) return;
    ++left_;
    request.offset = (*offsets_)[next_++];
    request.length = bytes_;
    request.part = {.iov_base = memory_.get(), .iov_len = bytes_};
    request.iov = &request.part;
    request.iov_count = 1;
    disk_.submit(request);
  }
  void ended(Request& request) {
    ENSURE(request.error == 0);
    --left_;
    send(request);
    if (left_ == 0) all_ended_.release();
  }

  Disk& disk_;
  std::vector<Request> requests_;
  const AlignedMemory memory_;
  const uint32_t bytes_;
  const std::vector<uint64_t>* offsets_ = nullptr;
  size_t next_ = 0;
  uint32_t left_ = 0;
  std::binary_semaphore all_ended_{0};
};

std::string uuid_of(uint32_t number) {
  return fmt::format("3f2504e0-4f89-41d3-9a0c-{:012x}", number);
}

// Takes snapshot `number`; what was the newest is sealed and closed.
Result<CowDevice*> take(Disk& disk, CowDevice* present, const std::string& folder,
                        uint32_t number) {
  const CowHeader header{
      .uuid = uuid_of(number), .disk = "bench", .base_bytes = disk.info().size_bytes};
  const std::string path = fmt::format("{}/{}.cow", folder, number);
  UniqueFd fd = TRY(create_cow_overlay(path, header, number == 0 ? "" : uuid_of(number - 1)));
  CowBegin begin;
  begin.content.header = header;
  begin.content.state.uuid = header.uuid;
  begin.content.state.opens = 1;
  begin.content.table = CowTable(cow_grains(header));
  begin.overlay = TRY(FileDevice::open({.fd = std::move(fd), .label = path}, disk.thread()));
  begin.present = present;
  Result<CowDevice*> taken = nullptr;
  std::binary_semaphore ended(0);
  disk.thread().run([&] {
    disk.hold(kForever, [&](const Result<>&) {
      begin_cow(disk, std::move(begin), [&](Result<CowBegun> begun) {
        taken = begun.ok() ? Result<CowDevice*>(begun->device) : std::move(begun).error();
        disk.release();
        ended.release();
      });
    });
  });
  ended.acquire();
  return taken;
}

Result<std::unique_ptr<FileDevice>> open_image(const std::string& path, IoThread& thread) {
  UniqueFd fd = TRY(open_file("image", path, O_RDWR | O_DIRECT));
  return FileDevice::open({.fd = std::move(fd), .label = path}, thread);
}

struct Options {
  std::string image;
  std::string folder;
  uint32_t snapshots = 0;
  uint32_t depth = 0;
  uint32_t burst = 0;
};

// Two disks of one image, only one of them with snapshots: what the other writes is kept by then.
Result<> run(const Options& options) {
  IoThread::Config config;
  config.name = "io-bench";
  const std::unique_ptr<IoThread> thread = TRY(IoThread::start(std::move(config)));
  Disk disk({.id = "kept", .serial = ""}, TRY(open_image(options.image, *thread)), *thread);
  Disk other({.id = "plain", .serial = ""}, TRY(open_image(options.image, *thread)), *thread);
  const uint64_t grains = disk.info().size_bytes / kCowGrainBytes;
  std::mt19937_64 random(1);
  const auto place_in = [&random](uint64_t grain) {
    return grain * kCowGrainBytes + random() % (kCowGrainBytes / kBlock) * kBlock;
  };
  const auto draw = [&](uint64_t below_grain) {
    std::vector<uint64_t> offsets(options.burst);
    for (uint64_t& offset : offsets) offset = place_in(random() % below_grain);
    return offsets;
  };
  Load kept(disk, options.depth, kBlock);
  Load plain(other, options.depth, kBlock);
  CowDevice* present = nullptr;
  for (uint32_t i = 0; i < options.snapshots; ++i) {
    present = TRY(take(disk, present, options.folder, i));
    if (i + 1 < options.snapshots) kept.run(draw(grains));  // what the older ones keep
  }
  std::vector<uint64_t> order(grains);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 0; i < kFirstKept; ++i) kept.run({i * kCowGrainBytes});
  std::shuffle(order.begin() + kFirstKept, order.end(), random);
  size_t next = kFirstKept;
  for (size_t i = 0; i < kBursts && next + options.burst <= grains; ++i) {
    std::vector<uint64_t> firsts;
    for (uint32_t j = 0; j < options.burst; ++j) firsts.push_back(place_in(order[next++]));
    const double cold = kept.run(firsts);
    fmt::print("cold {:.1f} {:.1f}\n", cold, plain.run(draw(kFirstKept)));
  }
  std::vector<uint64_t> all(grains * kCowGrainBytes / kPiece);
  for (size_t i = 0; i < all.size(); ++i) all[i] = i * kPiece;
  Load(disk, 4, kPiece).run(all);
  for (size_t i = 0; i < 2 * kBursts; ++i) {
    // Each goes first as often as the other.
    const double before = i % 2 == 0 ? 0 : plain.run(draw(grains));
    const double warm = kept.run(draw(grains));
    fmt::print("warm {:.1f} {:.1f}\n", warm, i % 2 == 0 ? plain.run(draw(grains)) : before);
  }
  if (present != nullptr && present->is_broken()) return failed("the snapshot is broken");
  return {};
}

bool parse(std::string_view text, uint32_t& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  plumb::Options options;
  if (argc != 6 || !plumb::parse(argv[3], options.snapshots) ||
      !plumb::parse(argv[4], options.depth) || !plumb::parse(argv[5], options.burst)) {
    fmt::print(stderr, "{}", plumb::kUsage);
    return 2;
  }
  options.image = argv[1];
  options.folder = argv[2];
  plumb::Result<> done = plumb::run(options);
  if (done.ok()) return 0;
  fmt::print(stderr, "cow_bench: {}\n", done.error().message);
  return 1;
}
