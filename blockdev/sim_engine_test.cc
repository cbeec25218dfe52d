#include "blockdev/sim_engine.h"

#include <fcntl.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <set>

#include "blockdev/disk.h"
#include "blockdev/file_device.h"
#include "blockdev/io_loop.h"
#include "tests/conformance/block_device_suite.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

// An engine alone, one operation at a time or several.
struct Bench {
  explicit Bench(SimEngine::Config config = {}, SimDevice::Config medium = {})
      : device(medium), engine(std::move(config)), fd(engine.attach(device)) {
    file = engine.add_file(fd.get());
  }
  void submit(IoOp& op) {
    op.file = file;
    engine.submit(op);
  }
  int64_t run(IoOp& op) {
    submit(op);
    finish();
    return op.result;
  }
  size_t finish() {
    IoEvents events;
    while (engine.in_flight() > 0) engine.wait(kForever, events);
    size_t count = 0;
    while (events.completed.pop() != nullptr) ++count;
    return count;
  }
  int64_t transfer(IoOpKind kind, uint64_t block, int value, bool dsync = false) {
    data.fill(static_cast<unsigned char>(value));
    iovec part = data.part(0, data.size());
    IoOp op;
    op.kind = kind;
    op.dsync = dsync;
    op.offset = block * 512;
    op.iov = &part;
    op.iov_count = 1;
    return run(op);
  }
  int64_t sync() {
    IoOp op;
    op.kind = IoOpKind::kSync;
    return run(op);
  }
  int value(uint32_t block) const { return static_cast<int>(device.current(block)[0]); }
  bool safe(uint32_t block) const { return !device.cached(block); }

  SimDevice device;
  SimEngine engine;
  UniqueFd fd;
  IoFile file;
  AlignedBuffer data{1024};
};

SimEngine::Config with_rule(const SimRule& rule) {
  SimEngine::Config config;
  config.rules.push_back(rule);
  return config;
}

}  // namespace

TEST_CASE("sim engine: a plain write is in the cache, a durable one on the medium, a sync moves") {
  Bench bench;
  CHECK(bench.transfer(IoOpKind::kWrite, 2, 1) == 1024);
  CHECK(bench.value(2) == 1);
  CHECK(!bench.safe(2));
  CHECK(bench.transfer(IoOpKind::kWrite, 4, 2, true) == 1024);
  CHECK(bench.safe(4));
  CHECK(bench.sync() == 0);
  CHECK(bench.safe(2));
  CHECK(bench.transfer(IoOpKind::kRead, 2, 0) == 1024);
  CHECK(bench.data.all(1));
}

TEST_CASE("sim engine: a sync moves nothing that completes after it was issued") {
  size_t turn = 0;
  SimEngine::Config config;
  config.choose = [&turn](size_t) { return turn; };
  Bench bench(std::move(config));
  bench.data.fill(3);
  iovec part = bench.data.part(0, 1024);
  IoOp write;
  write.kind = IoOpKind::kWrite;
  write.iov = &part;
  write.iov_count = 1;
  IoOp sync;
  sync.kind = IoOpKind::kSync;
  bench.submit(write);
  bench.submit(sync);
  CHECK(bench.finish() == 2);
  CHECK(bench.value(0) == 3);
  CHECK(!bench.safe(0));
}

TEST_CASE("sim engine: faults by script do what they say, as often as they say") {
  Bench failing(with_rule({.kind = IoOpKind::kRead, .error = EIO, .skip = 1, .times = 2}));
  CHECK(failing.transfer(IoOpKind::kRead, 0, 0) == 1024);
  CHECK(failing.transfer(IoOpKind::kRead, 0, 0) == -EIO);
  CHECK(failing.transfer(IoOpKind::kRead, 0, 0) == -EIO);
  CHECK(failing.transfer(IoOpKind::kRead, 0, 0) == 1024);

  Bench range(with_rule(
      {.kind = IoOpKind::kWrite, .first_block = 4, .blocks = 2, .times = SimRule::kForEver}));
  CHECK(range.transfer(IoOpKind::kWrite, 2, 1) == 1024);
  CHECK(range.transfer(IoOpKind::kWrite, 3, 1) == -EIO);
  CHECK(range.transfer(IoOpKind::kWrite, 5, 1) == -EIO);
  CHECK(range.transfer(IoOpKind::kWrite, 6, 1) == 1024);

  Bench lost(with_rule({.kind = IoOpKind::kWrite, .fault = SimFault::kLost}));
  CHECK(lost.transfer(IoOpKind::kWrite, 0, 1) == 1024);
  CHECK(lost.value(0) == 0);

  Bench astray(with_rule({.kind = IoOpKind::kWrite, .fault = SimFault::kMisdirected}));
  CHECK(astray.transfer(IoOpKind::kWrite, 0, 1) == 1024);
  CHECK(astray.value(0) == 0);
  CHECK(astray.value(2) == 1);

  Bench shorter(with_rule({.kind = IoOpKind::kRead, .fault = SimFault::kShort}));
  const int64_t moved = shorter.transfer(IoOpKind::kRead, 0, 9);
  CHECK(moved > 0);
  CHECK(moved <= 1024);

  Bench again(with_rule({.kind = IoOpKind::kSync, .error = EINTR}));
  CHECK(again.sync() == -EINTR);
  CHECK(again.sync() == 0);
}

TEST_CASE("sim engine: a lost path fails everything until it is back") {
  Bench bench;
  bench.engine.lose_path();
  CHECK(bench.transfer(IoOpKind::kWrite, 0, 1) < 0);
  CHECK(bench.transfer(IoOpKind::kRead, 0, 1) < 0);
  CHECK(bench.sync() < 0);
  bench.engine.find_path();
  CHECK(bench.transfer(IoOpKind::kWrite, 0, 1) == 1024);
}

TEST_CASE("sim engine: a device that shrank ends transfers as the kernel does") {
  for (const bool block_device : {false, true}) {
    Bench bench({}, {.blocks = 16, .block_device = block_device});
    bench.device.resize(8);
    CHECK(bench.transfer(IoOpKind::kRead, 7, 1) == 512);
    CHECK(bench.transfer(IoOpKind::kRead, 8, 1) == 0);
    CHECK(bench.transfer(IoOpKind::kWrite, 8, 1) == (block_device ? -ENOSPC : 1024));
    CHECK(bench.device.blocks() == (block_device ? 8 : 10));
  }
}

TEST_CASE("sim engine: power that goes takes what was in flight along, or a part of it") {
  std::set<int> outcomes;
  for (uint64_t seed = 1; seed <= 64; ++seed) {
    SimEngine::Config config;
    config.seed = seed;
    Bench bench(std::move(config));
    bench.data.fill(1);
    iovec part = bench.data.part(0, 1024);
    IoOp write;
    write.kind = IoOpKind::kWrite;
    write.dsync = true;
    write.iov = &part;
    write.iov_count = 1;
    bench.submit(write);
    bench.engine.lose_power();
    outcomes.insert(bench.value(0) * 2 + bench.value(1));
    CHECK((bench.safe(0) && bench.safe(1)));
    CHECK(bench.finish() == 1);
    CHECK(write.result == -EIO);
    CHECK(bench.transfer(IoOpKind::kWrite, 4, 1) == -EIO);
    CHECK(bench.value(4) == 0);
  }
  CHECK(outcomes == std::set{0, 1, 2, 3});
}

TEST_CASE("sim engine: a file device over it is a block device as any other") {
  for (const uint32_t block_size : {512U, 4096U}) {
    for (const bool block_device : {false, true}) {
      SimDevice medium({.block_size = block_size,
                        .blocks = (8U << 20U) / block_size,
                        .memory_alignment = 512,
                        .block_device = block_device});
      auto engine = std::make_unique<SimEngine>(SimEngine::Config{.seed = 3, .stir = 8192});
      UniqueFd fd = engine->attach(medium);
      const auto thread = IoThread::on_caller(std::move(engine));
      FileFacts facts;
      facts.block_device = block_device;
      facts.info.size_bytes = medium.size_bytes();
      facts.info.logical_block_size = block_size;
      facts.info.physical_block_size = 4096;
      facts.info.memory_alignment = 512;
      facts.info.max_write_zeroes_bytes = 1U << 30U;
      // A simulated device may ignore discards, and so may any; the suite says nothing of that.
      facts.info.max_discard_bytes = 1U << 30U;
      FileDevice device({.fd = std::move(fd), .label = "simulated"}, facts, *thread);
      conformance::run_block_device_suite(device, *thread);
    }
  }
}

namespace {

// Operations drawn from a seed, one after the other, on an engine; notes each result, with the
// bytes read.
class Sequence {
 public:
  static constexpr uint64_t kFileBytes = 64U << 10U;
  explicit Sequence(uint64_t seed) : random_(seed) {}

  std::vector<std::pair<int64_t, uint64_t>> run(IoEngine& engine, IoFile file) {
    std::vector<std::pair<int64_t, uint64_t>> results;
    // What direct I/O refuses: half a block, and half a block on. Where there are holes, file
    // systems look less closely; here there is data yet.
    for (const uint64_t half : {0, 256}) {
      IoOp op;
      op.kind = IoOpKind::kWrite;
      op.file = file;
      op.offset = half;
      parts_[0] = buffer_.part(0, 512 - (half == 0 ? 256 : 0));
      op.iov = parts_;
      op.iov_count = 1;
      finish(engine, op);
      results.emplace_back(op.result, 0);
    }
    for (int i = 0; i < 400; ++i) {
      IoOp op;
      draw(op);
      op.file = file;
      finish(engine, op);
      results.emplace_back(op.result, op.kind == IoOpKind::kRead ? sum() : 0);
    }
    return results;
  }

 private:
  void draw(IoOp& op) {
    constexpr IoOpKind kKinds[] = {IoOpKind::kRead,  IoOpKind::kRead, IoOpKind::kWrite,
                                   IoOpKind::kWrite, IoOpKind::kSync, IoOpKind::kFallocate};
    op.kind = kKinds[random_.below(std::size(kKinds))];
    op.dsync = random_.chance(32768);
    // Some begin behind the end; reads may cross it.
    op.offset = uint64_t{random_.below(140)} * 512;
    const bool transfer = op.kind == IoOpKind::kRead || op.kind == IoOpKind::kWrite;
    uint64_t blocks = 1 + random_.below(8);
    if (op.kind != IoOpKind::kRead) {
      op.offset %= kFileBytes - 8 * 512;
    }
    if (op.kind == IoOpKind::kFallocate) {
      op.fallocate_mode = FALLOC_FL_KEEP_SIZE |
                          (random_.chance(32768) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
      op.length = blocks * 512;
    }
    if (!transfer) return;
    if (op.kind == IoOpKind::kWrite) buffer_.fill_pattern(random_.below(1U << 20U));
    if (op.kind == IoOpKind::kRead) buffer_.fill(0);
    parts_[0] = buffer_.part(0, 512 * (blocks > 1 ? blocks / 2 : 1));
    parts_[1] = buffer_.part(8 * 512, 512 * (blocks - blocks / 2));
    op.iov = parts_;
    op.iov_count = blocks > 1 ? 2 : 1;
  }
  void finish(IoEngine& engine, IoOp& op) {
    IoEvents events;
    engine.submit(op);
    while (events.completed.empty()) engine.wait(kForever, events);
  }
  uint64_t sum() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < buffer_.size(); ++i) {
      sum = sum * 31 + static_cast<uint64_t>(buffer_.data()[i]);
    }
    return sum;
  }

  SimRandom random_;
  AlignedBuffer buffer_{16 * 512};
  iovec parts_[2]{};
};

}  // namespace

// A simulation is worth what it has in common with the real thing.
TEST_CASE("sim engine: the same operations on a real file give the same results and bytes") {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    INFO("seed " << seed);
    const TestImage image(Sequence::kFileBytes);
    const UniqueFd image_fd = image.open();
    const AlignedBuffer zeroes(Sequence::kFileBytes);
    REQUIRE(::pwrite(image_fd.get(), zeroes.data(), zeroes.size(), 0) ==
            static_cast<ssize_t>(zeroes.size()));
    std::vector<std::pair<int64_t, uint64_t>> real;
    IoThread::Config config;
    config.name = "io-test";
    config.engine = EngineKind::kUring;
    const auto thread = IoThread::start(std::move(config)).value();
    thread->run([&] {
      const IoFile file = thread->engine().add_file(image_fd.get());
      real = Sequence(seed).run(thread->engine(), file);
      thread->engine().remove_file(file);
    });

    Bench bench({.seed = seed}, {.blocks = Sequence::kFileBytes / 512});
    const auto simulated = Sequence(seed).run(bench.engine, bench.file);
    REQUIRE(real.size() == simulated.size());
    for (size_t i = 0; i < real.size(); ++i) {
      INFO("operation " << i);
      CHECK(real[i].first == simulated[i].first);
      CHECK(real[i].second == simulated[i].second);
    }
    std::vector<std::byte> content(Sequence::kFileBytes);
    const UniqueFd plain = image.open(O_RDONLY);
    REQUIRE(::pread(plain.get(), content.data(), content.size(), 0) ==
            static_cast<ssize_t>(content.size()));
    for (uint32_t block = 0; block < bench.device.blocks(); ++block) {
      CHECK(std::memcmp(content.data() + block * 512, bench.device.current(block), 512) == 0);
    }
  }
}

}  // namespace plumb
