#include "blockdev/cow_device.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <deque>

#include "blockdev/cow_switch.h"
#include "blockdev/disk.h"
#include "blockdev/file_device.h"
#include "blockdev/limits.h"
#include "blockdev/mem_device.h"
#include "blockdev/sim_engine.h"
#include "tests/conformance/block_device_suite.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/mem_cow_file.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

constexpr uint32_t kGrain = 64U << 10U;
constexpr uint64_t kGrains = 64;
constexpr uint64_t kBytes = kGrains * kGrain - 512;

std::string uuid_of(int number) {
  return fmt::format("3f2504e0-4f89-41d3-9a0c-0305e82c33{:02x}", number);
}

CowHeader header_of(int number, uint64_t base_bytes = kBytes) {
  return {.uuid = uuid_of(number), .disk = "disk", .base_bytes = base_bytes, .grain_bytes = kGrain};
}

// Memory that writes down what reaches it, and can keep it back or fail it.
class WatchedDevice final : public BlockDevice {
 public:
  WatchedDevice(uint64_t bytes, const char* name, std::vector<std::string>& log, IoThread& thread)
      : memory(info_of(bytes), thread), name_(name), log_(log), thread_(thread) {}
  const BlockInfo& info() const override { return memory.info(); }
  void submit(BlockRequest& request) override {
    log_.push_back(fmt::format("{} {} {}+{}{}", name_, name_of(request.op), request.offset,
                               request.length, request.durable ? " durable" : ""));
    const int error = fail ? fail(request) : 0;
    if (error != 0) {
      request.error = error;
      return thread_.post([&request] { request.done(request); });
    }
    keep ? kept.push_back(&request) : memory.submit(request);
  }
  void let_go() {
    keep = false;
    for (; !kept.empty(); kept.pop_front()) memory.submit(*kept.front());
  }

  MemDevice memory;
  std::function<int(const BlockRequest&)> fail;
  bool keep = false;
  std::deque<BlockRequest*> kept;

 private:
  static BlockInfo info_of(uint64_t bytes) {
    BlockInfo info;
    info.size_bytes = bytes;
    info.max_discard_bytes = info.max_write_zeroes_bytes = bytes;
    return info;
  }
  const char* name_;
  std::vector<std::string>& log_;
  IoThread& thread_;
};

struct Fixture {
  std::unique_ptr<IoThread> thread =
      IoThread::on_caller(std::make_unique<SimEngine>(SimEngine::Config{}));
  std::vector<std::string> log;
  WatchedDevice* below = nullptr;
  WatchedDevice* overlay = nullptr;
  std::vector<CowBreak> breaks;
  std::unique_ptr<CowDevice> device;

  explicit Fixture(CowHeader header = header_of(1), uint64_t disk_bytes = kBytes,
                   bool unreadable_breaks = true) {
    auto disk = std::make_unique<WatchedDevice>(disk_bytes, "disk", log, *thread);
    below = disk.get();
    for (uint64_t i = 0; i < disk_bytes; ++i) {
      below->memory.bytes()[i] = static_cast<std::byte>(i / kGrain + 1);
    }
    auto [made, content] = make_overlay(header, "");
    overlay = made.get();
    device = std::make_unique<CowDevice>(
        CowDevice::Parts{.below = std::move(disk), .overlay = std::move(made)}, content,
        CowDevice::Config{.broken = [this](const CowBreak& why) { breaks.push_back(why); },
                          .unreadable_breaks = unreadable_breaks},
        *thread);
  }
  std::pair<std::unique_ptr<WatchedDevice>, CowOverlay> make_overlay(const CowHeader& header,
                                                                     const std::string& older) {
    auto made = std::make_unique<WatchedDevice>(cow_file_bytes(header), "overlay", log, *thread);
    MemCowFile file(made->memory.bytes());
    REQUIRE(format_cow_overlay(file, header, older).ok());
    return {std::move(made), load_cow_overlay(file).value()};
  }
  CowOverlay content() const {
    MemCowFile file(overlay->memory.bytes());
    return load_cow_overlay(file).value();
  }
  std::byte kept_byte(uint64_t at) const {
    return overlay->memory.bytes()[cow_data_at(header_of(1)) + at];
  }
  void turn(int times = 20) const {
    for (int i = 0; i < times; ++i) thread->turn(kNoWait);
  }
  BlockClient<BlockDevice> client() { return {*device, *thread}; }
};

AlignedBuffer filled(size_t bytes, unsigned char value) {
  AlignedBuffer buffer(bytes);
  buffer.fill(value);
  return buffer;
}

}  // namespace

TEST_CASE("cow device: the old grain is durable, then recorded, then the write goes on") {
  Fixture fixture;
  CHECK(fixture.client().write(kGrain + 4096, filled(512, 0xee), true) == 0);
  const uint64_t data = cow_data_at(header_of(1)) + kGrain;
  CHECK(fixture.log == std::vector<std::string>{
                           "disk read 65536+65536",
                           fmt::format("overlay write {}+65536 durable", data),
                           "overlay write 12288+4096 durable",
                           "disk write 69632+512 durable",
                       });
  CHECK(fixture.kept_byte(kGrain + 4096) == std::byte{2});
  CHECK(fixture.below->memory.bytes()[kGrain + 4096] == std::byte{0xee});
  CHECK(fixture.content().table.kept() == 1);
  CHECK(fixture.content().table.has(1));
  CHECK(fixture.device->kept_bytes() == kGrain);
}

TEST_CASE("cow device: a write to a grain that is kept costs nothing more") {
  Fixture fixture;
  CHECK(fixture.client().write(0, filled(512, 1)) == 0);
  fixture.log.clear();
  CHECK(fixture.client().write(8192, filled(512, 2)) == 0);
  CHECK(fixture.log == std::vector<std::string>{"disk write 8192+512"});
  CHECK(fixture.kept_byte(0) == std::byte{1});
}

TEST_CASE("cow device: reads and flushes pass") {
  Fixture fixture;
  CHECK(fixture.client().read(0, AlignedBuffer(512)) == 0);
  CHECK(fixture.client().flush() == 0);
  CHECK(fixture.log == std::vector<std::string>{"disk read 0+512", "disk flush 0+0"});
}

TEST_CASE("cow device: neighbours are copied as one, and those that are kept are not") {
  Fixture fixture;
  CHECK(fixture.client().write(2 * kGrain, filled(512, 1)) == 0);
  fixture.log.clear();
  CHECK(fixture.client().write(0, filled(8 * kGrain, 2)) == 0);
  const std::vector<std::string> reads(fixture.log.begin(), fixture.log.begin() + 3);
  CHECK(reads == std::vector<std::string>{"disk read 0+131072", "disk read 196608+262144",
                                          "disk read 458752+65536"});
  CHECK(fixture.content().table.kept() == 8);
  for (uint64_t i = 0; i < 8; ++i) {
    CHECK(fixture.kept_byte(i * kGrain) == static_cast<std::byte>(i + 1));
  }
}

TEST_CASE("cow device: a copy ends with its buffer, its page of the table, and the limit") {
  constexpr uint64_t kPageGrains = kCowGrainsPerPage;
  CowHeader header = header_of(1);
  header.grain_bytes = 4096;
  header.base_bytes = (kPageGrains + 8) * 4096;
  header.limit_bytes = uint64_t{100} * 4096;
  Fixture fixture(header, header.base_bytes);
  CHECK(fixture.client().range(BlockOp::kWriteZeroes, (kPageGrains - 3) * 4096, 6 * 4096) == 0);
  CHECK(fixture.log[0] == fmt::format("disk read {}+12288", (kPageGrains - 3) * 4096));
  CHECK(fixture.log[1] == fmt::format("disk read {}+12288", kPageGrains * 4096));
  CHECK(fixture.content().table.kept() == 6);
  fixture.log.clear();
  CHECK(fixture.client().range(BlockOp::kWriteZeroes, 0, 94 * 4096) == 0);
  CHECK(fixture.log[0] == "disk read 0+262144");
  CHECK(fixture.log[1] == "disk read 262144+122880");
  CHECK(fixture.content().table.kept() == 100);
  CHECK(fixture.breaks.empty());
  CHECK(fixture.client().range(BlockOp::kWriteZeroes, 200 * 4096, 4096) == 0);
  CHECK(fixture.breaks.size() == 1);
}

TEST_CASE("cow device: several writes to one grain wait for one copy, in order") {
  Fixture fixture;
  fixture.overlay->keep = true;
  const AlignedBuffer data(512);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (uint64_t i = 0; i < 3; ++i) {
    auto& request = *requests.emplace_back(std::make_unique<TestRequest>());
    request.op = BlockOp::kWrite;
    request.offset = i * 512;
    request.set_parts({data.part(0, 512)});
    fixture.client().submit(request);
  }
  fixture.turn();
  CHECK(fixture.log.size() == 2);  // a read, and the copy on its way
  for (auto& request : requests) CHECK(request->calls == 0);
  fixture.overlay->let_go();
  for (auto& request : requests) fixture.thread->wait_for(request->ended);
  const std::vector<std::string> last(fixture.log.end() - 3, fixture.log.end());
  CHECK(last ==
        std::vector<std::string>{"disk write 0+512", "disk write 512+512", "disk write 1024+512"});
}

TEST_CASE("cow device: a read meanwhile finds the old content, without waiting") {
  Fixture fixture;
  fixture.overlay->keep = true;
  const AlignedBuffer data = filled(512, 0xee);
  TestRequest write;
  write.op = BlockOp::kWrite;
  write.set_parts({data.part(0, 512)});
  fixture.client().submit(write);
  fixture.turn();
  const AlignedBuffer found(512);
  CHECK(fixture.client().read(0, found) == 0);
  CHECK(found.all(1));
  CHECK(write.calls == 0);
  fixture.overlay->let_go();
  fixture.thread->wait_for(write.ended);
}

TEST_CASE("cow device: copies in flight are bounded, and copies recorded together") {
  Fixture fixture;
  fixture.overlay->keep = true;
  const AlignedBuffer data(512);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (uint64_t i = 0; i < kGrains; ++i) {
    auto& request = *requests.emplace_back(std::make_unique<TestRequest>());
    request.op = BlockOp::kWrite;
    request.offset = i * kGrain;
    request.set_parts({data.part(0, 512)});
    fixture.client().submit(request);
  }
  fixture.turn();
  CHECK(fixture.log.size() == 2 * kCowCopies);
  fixture.overlay->let_go();
  for (auto& request : requests) fixture.thread->wait_for(request->ended);
  CHECK(fixture.content().table.kept() == kGrains);
  const auto tables =
      std::count(fixture.log.begin(), fixture.log.end(), "overlay write 12288+4096 durable");
  CHECK(tables <= 2 * static_cast<ptrdiff_t>(kGrains / kCowCopies));
}

TEST_CASE("cow device: the last grain may be no whole one") {
  Fixture fixture;
  CHECK(fixture.client().write(kBytes - 512, filled(512, 0xee)) == 0);
  CHECK(fixture.kept_byte(kBytes - 512) == static_cast<std::byte>(kGrains));
  CHECK(fixture.kept_byte(kBytes) == std::byte{0});
}

TEST_CASE("cow device: zeroes are writes, and a discard of what is not kept does nothing") {
  Fixture fixture;
  CHECK(fixture.client().range(BlockOp::kDiscard, 0, 2 * kGrain, true) == 0);
  CHECK(fixture.log.empty());
  CHECK(fixture.client().range(BlockOp::kWriteZeroes, 0, 2 * kGrain, true) == 0);
  CHECK(fixture.content().table.kept() == 2);
  CHECK(fixture.kept_byte(kGrain) == std::byte{2});
  fixture.log.clear();
  CHECK(fixture.client().range(BlockOp::kDiscard, 0, 2 * kGrain, true) == 0);
  CHECK(fixture.log == std::vector<std::string>{"disk discard 0+131072 durable"});
}

TEST_CASE("cow device: what the disk has grown by is not kept") {
  Fixture fixture(header_of(1, 4 * kGrain), 8 * kGrain);
  CHECK(fixture.client().write(6 * kGrain, filled(512, 1)) == 0);
  CHECK(fixture.log == std::vector<std::string>{"disk write 393216+512"});
  CHECK(fixture.client().write(3 * kGrain, filled(2 * kGrain, 1)) == 0);
  CHECK(fixture.content().table.kept() == 1);
  CHECK(fixture.content().table.has(3));
}

TEST_CASE("cow device: at its limit the snapshot is broken, durably, and the guest goes on") {
  CowHeader header = header_of(1);
  header.limit_bytes = 3 * kGrain;
  Fixture fixture(header);
  CHECK(fixture.client().write(0, filled(2 * kGrain, 0xee)) == 0);
  CHECK(fixture.breaks.empty());
  CHECK(fixture.client().write(2 * kGrain, filled(4 * kGrain, 0xee)) == 0);
  REQUIRE(fixture.breaks.size() == 1);
  CHECK(fixture.breaks[0].marked);
  CHECK_THAT(fixture.breaks[0].reason, Catch::Contains("limit of 196608 bytes"));
  CHECK(fixture.content().state.condition == CowCondition::kBroken);
  CHECK(fixture.content().table.kept() <= 3);
  fixture.log.clear();
  CHECK(fixture.client().write(9 * kGrain, filled(512, 0xee)) == 0);
  CHECK(fixture.log.size() == 1);
}

TEST_CASE("cow device: the mark of a broken snapshot is durable before the write that broke it") {
  for (const bool table : {false, true}) {
    Fixture fixture;
    fixture.overlay->fail = [table](const BlockRequest& request) {
      const bool data = request.offset >= cow_data_at(header_of(1));
      const bool fails = table ? request.offset >= kCowTableAt && !data : data;
      return fails ? ENOSPC : 0;
    };
    CHECK(fixture.client().write(0, filled(512, 0xee)) == 0);
    REQUIRE(fixture.log.size() >= 2);
    CHECK(fixture.log[fixture.log.size() - 2] == "overlay write 8192+4096 durable");
    CHECK(fixture.log.back() == "disk write 0+512");
    CHECK_THAT(fixture.content().state.reason, Catch::Contains("No space left"));
  }
}

TEST_CASE("cow device: when even the mark fails, writes to cold grains wait for the owner") {
  Fixture fixture;
  CHECK(fixture.client().write(0, filled(512, 1)) == 0);
  fixture.overlay->fail = [](const BlockRequest&) { return EIO; };
  const AlignedBuffer data = filled(512, 0xee);
  TestRequest cold;
  cold.op = BlockOp::kWrite;
  cold.offset = kGrain;
  cold.set_parts({data.part(0, 512)});
  fixture.client().submit(cold);
  fixture.turn();
  REQUIRE(fixture.breaks.size() == 1);
  CHECK(!fixture.breaks[0].marked);
  CHECK(cold.calls == 0);
  CHECK(fixture.below->memory.bytes()[kGrain] == std::byte{2});
  CHECK(fixture.client().write(0, filled(512, 2)) == 0);  // is kept
  fixture.thread->run([&] { fixture.device->go_on(); });
  fixture.thread->wait_for(cold.ended);
  CHECK(cold.error == 0);
  // Nothing calls it whole later.
  fixture.overlay->fail = {};
  bool recorded = false;
  fixture.thread->run([&] {
    fixture.device->record({.condition = CowCondition::kClean},
                           [&](Result<> done) { recorded = done.ok(); });
  });
  fixture.turn();
  CHECK(recorded);
  CHECK(fixture.content().state.condition == CowCondition::kBroken);
}

TEST_CASE("cow device: old content that cannot be read breaks the snapshot, or fails the write") {
  for (const bool breaks : {true, false}) {
    Fixture fixture(header_of(1), kBytes, breaks);
    fixture.below->fail = [](const BlockRequest& request) {
      return request.op == BlockOp::kRead ? EIO : 0;
    };
    CHECK(fixture.client().write(0, filled(512, 0xee)) == (breaks ? 0 : EIO));
    CHECK(fixture.breaks.size() == (breaks ? 1 : 0));
    CHECK(fixture.device->is_broken() == breaks);
    if (breaks) continue;
    // As it is repeated by a disk that keeps what failed.
    fixture.below->fail = {};
    CHECK(fixture.client().write(0, filled(512, 0xee)) == 0);
    CHECK(fixture.kept_byte(0) == std::byte{1});
  }
}

TEST_CASE("cow device: a failed write has no copy of its own in flight any more") {
  Fixture fixture(header_of(1), kBytes, false);
  fixture.below->fail = [](const BlockRequest& request) {
    return request.op == BlockOp::kRead && request.offset == 0 ? EIO : 0;
  };
  fixture.overlay->keep = true;
  const AlignedBuffer data(8 * kGrain);
  TestRequest write;
  write.op = BlockOp::kWrite;
  write.set_parts({data.part(0, data.size())});
  fixture.client().submit(write);
  fixture.turn();
  CHECK(write.calls == 0);  // the second copy is under way
  fixture.overlay->let_go();
  fixture.thread->wait_for(write.ended);
  CHECK(write.error == EIO);
  fixture.turn();
  fixture.device.reset();  // checks that nothing is in flight
}

namespace {

// A disk with snapshots that come and go.
struct DiskFixture : Fixture {
  Disk disk{{.id = "data", .serial = ""}, take_below(), *thread};
  BlockClient<Disk> client{disk, *thread};
  CowDevice* present = nullptr;
  std::vector<std::unique_ptr<BlockDevice>> sealed;

  std::unique_ptr<BlockDevice> take_below() { return device->take_apart().below; }

  std::string begin(int number, int older) {
    auto [made, content] = make_overlay(header_of(number), older == 0 ? "" : uuid_of(older));
    overlay = made.get();
    std::string error = "not called";
    thread->run([&, file = std::move(made), content = std::move(content)]() mutable {
      disk.hold(kForever, [&, file = std::move(file),
                           content = std::move(content)](const Result<>&) mutable {
        CowBegin begin{.overlay = std::move(file),
                       .content = std::move(content),
                       .config = {.broken = [this](const CowBreak& why) { breaks.push_back(why); }},
                       .present = present};
        begin_cow(disk, std::move(begin), [&](Result<CowBegun> begun) {
          error = begun.ok() ? "" : begun.error().message;
          if (begun.ok()) {
            present = begun->device;
            if (begun->previous) sealed.push_back(std::move(begun->previous));
          }
          disk.release();
        });
      });
    });
    turn();
    return error;
  }
  CowState state_of(WatchedDevice& file) {
    MemCowFile bytes(file.memory.bytes());
    return load_cow_overlay(bytes).value().state;
  }
};

}  // namespace

TEST_CASE("cow device: a disk gets a snapshot, another, and none, while it works") {
  DiskFixture fixture;
  CHECK(fixture.begin(1, 0).empty());
  CHECK(fixture.log.front() == "disk flush 0+0");
  CHECK(fixture.client.write(0, filled(512, 0xe1)) == 0);
  WatchedDevice& first = *fixture.overlay;
  CHECK(fixture.begin(2, 1).empty());
  REQUIRE(fixture.sealed.size() == 1);
  CHECK(fixture.sealed[0].get() == &first);
  CHECK(fixture.state_of(first).condition == CowCondition::kSealed);
  CHECK(fixture.client.write(0, filled(512, 0xe2)) == 0);
  const uint64_t data = cow_data_at(header_of(1));
  CHECK(first.memory.bytes()[data] == std::byte{1});
  CHECK(fixture.overlay->memory.bytes()[data] == std::byte{0xe1});
  std::unique_ptr<BlockDevice> last;
  fixture.thread->run([&] {
    fixture.disk.hold(kForever, [&](const Result<>&) {
      end_cow(fixture.disk, *fixture.present, {.condition = CowCondition::kClean},
              [&](Result<std::unique_ptr<BlockDevice>> ended) {
                last = std::move(ended).value();
                fixture.disk.release();
              });
    });
  });
  fixture.turn();
  REQUIRE(last.get() == fixture.overlay);
  CHECK(fixture.state_of(*fixture.overlay).condition == CowCondition::kClean);
  fixture.log.clear();
  CHECK(fixture.client.write(5 * kGrain, filled(512, 1)) == 0);
  CHECK(fixture.log.size() == 1);
}

TEST_CASE("cow device: a snapshot that cannot begin leaves the one before as it was") {
  for (const bool flush : {true, false}) {
    DiskFixture fixture;
    CHECK(fixture.begin(1, 0).empty());
    WatchedDevice& first = *fixture.overlay;
    if (flush) {
      fixture.below->fail = [](const BlockRequest& request) {
        return request.op == BlockOp::kFlush ? EIO : 0;
      };
    } else {
      first.fail = [](const BlockRequest&) { return EIO; };
    }
    CHECK_THAT(fixture.begin(2, 1), Catch::Contains("cannot be"));
    CHECK(fixture.breaks.empty());
    fixture.below->fail = first.fail = {};
    CHECK(fixture.state_of(first).condition == CowCondition::kOpen);
    CHECK(fixture.client.write(0, filled(512, 1)) == 0);
    MemCowFile bytes(first.memory.bytes());
    CHECK(load_cow_overlay(bytes).value().table.has(0));
  }
}

TEST_CASE("cow device: changes that would pass it by are refused, reads are not") {
  DiskFixture fixture;
  TestRequest parked;
  TestRequest request;
  TestRequest read;
  for (TestRequest* one : {&parked, &request, &read}) {
    one->op = one == &read ? BlockOp::kRead : BlockOp::kWrite;
    one->length = 512;
    one->elsewhere = [](BlockRequest& elsewhere) {
      elsewhere.error = 0;
      elsewhere.disk->thread().post([&elsewhere] { elsewhere.done(elsewhere); });
    };
  }
  CHECK(fixture.client.finish(request) == 0);
  // What waits while a snapshot begins is refused as well.
  fixture.thread->run([&] { fixture.disk.hold(kForever, [](const Result<>&) {}); });
  fixture.client.submit(parked);
  CHECK(fixture.begin(1, 0).empty());
  fixture.thread->run([&] { fixture.disk.release(); });
  fixture.thread->wait_for(parked.ended);
  CHECK(parked.error == EOPNOTSUPP);
  request.calls = 0;
  CHECK(fixture.client.finish(request) == EOPNOTSUPP);
  CHECK(fixture.client.finish(read) == 0);
}

TEST_CASE("conformance: copy before write") {
  for (const EngineKind kind : {EngineKind::kUring, EngineKind::kLibaio}) {
    IoThread::Config config;
    config.name = "io-test";
    config.engine = kind;
    const auto thread = IoThread::start(std::move(config)).value();
    constexpr uint64_t kSize = 16U << 20U;
    const CowHeader header{.uuid = uuid_of(1), .disk = "image", .base_bytes = kSize};
    const TestImage image(kSize);
    const TestImage file(cow_file_bytes(header));
    auto overlay = CowFdFile::open(file.open(), "overlay").value();
    REQUIRE(format_cow_overlay(*overlay, header, "").ok());
    CowDevice::Parts parts;
    parts.below = FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value();
    parts.overlay = FileDevice::open({.fd = file.open(), .label = "overlay"}, *thread).value();
    CowDevice device(std::move(parts), load_cow_overlay(*overlay).value(), {}, *thread);
    conformance::run_block_device_suite(device, *thread);
    CHECK(!device.is_broken());
    // The snapshot is of an image of zeroes, whatever the suite has written.
    const CowOverlay kept = load_cow_overlay(*overlay).value();
    CHECK(kept.table.kept() > 4);
    std::vector<std::byte> grain(kCowGrainBytes);
    for (uint64_t i = 0; i < kept.table.grains(); ++i) {
      if (!kept.table.has(i)) continue;
      REQUIRE(overlay->read(cow_data_at(header) + i * kCowGrainBytes, grain).ok());
      CHECK(std::count(grain.begin(), grain.end(), std::byte{0}) == kCowGrainBytes);
    }
  }
}

}  // namespace plumb
