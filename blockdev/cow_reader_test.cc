#include "blockdev/cow_reader.h"

#include <fcntl.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <semaphore>

#include "base/file.h"
#include "base/log.h"
#include "blockdev/cow_device.h"
#include "blockdev/cow_snapshot_device.h"
#include "blockdev/file_device.h"
#include "blockdev/sim_random.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/mem_cow_file.h"
#include "tests/fakes/test_image.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

constexpr uint32_t kGrain = 4096;
constexpr uint64_t kGrains = 8;

std::string uuid_of(int number) {
  return fmt::format("3f2504e0-4f89-41d3-9a0c-0305e82c33{:02x}", number);
}
CowHeader header_of(int number) {
  return {.uuid = uuid_of(number),
          .disk = "disk",
          .base_bytes = kGrains * kGrain,
          .grain_bytes = kGrain};
}

// A disk with snapshot 1, kept by a VM, whose guest writes when the test says so.
struct Fixture {
  std::vector<std::byte> base = std::vector<std::byte>(kGrains * kGrain, std::byte{0x11});
  std::vector<std::byte> overlays[3];
  MemCowFile* base_file = nullptr;
  MemCowFile* file = nullptr;  // of overlay 1
  int newest = 1;

  Fixture() { format(1); }
  void format(int number) {
    overlays[number].resize(cow_file_bytes(header_of(number)));
    MemCowFile made(overlays[number]);
    REQUIRE(format_cow_overlay(made, header_of(number), number == 1 ? "" : uuid_of(1)).ok());
  }
  void set_state(int number, CowState state) {
    state.uuid = uuid_of(number);
    MemCowFile made(overlays[number]);
    REQUIRE(made.write(kCowStateAt, print_cow_state(state)).ok());
  }
  void take_another() {
    format(2);
    set_state(1, {.condition = CowCondition::kSealed, .opens = 1});
    newest = 2;
  }
  void guest_writes(uint64_t grain, bool kept = true) {
    std::vector<std::byte>& overlay = overlays[newest];
    const auto at = static_cast<ptrdiff_t>(grain * kGrain);
    const auto data = static_cast<ptrdiff_t>(cow_data_at(header_of(1)));
    if (kept) {
      std::copy_n(base.begin() + at, kGrain, overlay.begin() + data + at);
      overlay[kCowTableAt + grain / 8] |= static_cast<std::byte>(1U << grain % 8);
    }
    std::fill_n(base.begin() + at, kGrain, std::byte{0xee});
  }
  CowReader::Config config(bool writer = true) {
    auto disk = std::make_unique<MemCowFile>(base);
    auto overlay = std::make_unique<MemCowFile>(overlays[1]);
    base_file = disk.get();
    file = overlay.get();
    file->writer = writer;
    CowReader::Config config;
    config.base = std::move(disk);
    config.overlays.push_back(std::move(overlay));
    return config;
  }
  std::unique_ptr<CowReader> open(bool writer = true) {
    return CowReader::open(config(writer)).value();
  }
  // Just after the disk was read, and before the overlay is looked at again.
  void meanwhile(std::function<void()> act) const {
    base_file->after_read = [act = std::move(act), done = false]() mutable {
      if (!std::exchange(done, true)) act();
    };
  }
};

bool is_old(CowReader& reader) {
  std::vector<std::byte> all(reader.size_bytes());
  REQUIRE(reader.read(0, all).ok());
  return std::count(all.begin(), all.end(), std::byte{0x11}) == static_cast<ptrdiff_t>(all.size());
}
std::string error_of(CowReader& reader) {
  std::vector<std::byte> all(reader.size_bytes());
  Result<> read = reader.read(0, all);
  return read.ok() ? "" : read.error().message;
}

}  // namespace

TEST_CASE("cow reader: a snapshot reads as of its instant, before and after writes") {
  Fixture fixture;
  auto reader = fixture.open();
  CHECK(is_old(*reader));
  for (const uint64_t grain : {0U, 3U, 4U, 7U}) fixture.guest_writes(grain);
  CHECK(is_old(*reader));
  CHECK(is_old(*fixture.open()));
}

TEST_CASE("cow reader: any piece can be read, and nothing behind the end") {
  Fixture fixture;
  fixture.guest_writes(2);
  auto reader = fixture.open();
  for (const auto& [offset, length] :
       {std::pair<uint64_t, size_t>{0, 1}, {8191, 2}, {8192, 4096}, {12287, 4097}, {32767, 1}}) {
    std::vector<std::byte> piece(length);
    REQUIRE(reader->read(offset, piece).ok());
    CHECK(std::count(piece.begin(), piece.end(), std::byte{0x11}) ==
          static_cast<ptrdiff_t>(length));
  }
  std::vector<std::byte> piece(2);
  CHECK(!reader->read(32767, piece).ok());
  CHECK(!reader->read(UINT64_MAX, piece).ok());
  CHECK(reader->read(32768, {}).ok());
}

TEST_CASE("cow reader: a grain that is overwritten while it is read comes from the overlay") {
  Fixture fixture;
  auto reader = fixture.open();
  // The disk was read before or after the write: what it brought does not count any more.
  fixture.meanwhile([&] { fixture.guest_writes(5); });
  CHECK(is_old(*reader));
  auto other = fixture.open();
  fixture.guest_writes(6);
  CHECK(is_old(*other));
}

TEST_CASE("cow reader: another snapshot made meanwhile is followed") {
  for (const bool at_once : {false, true}) {
    Fixture fixture;
    CowReader::Config config = fixture.config();
    config.newer = [&](const std::string& uuid) -> Result<std::unique_ptr<CowFile>> {
      CHECK(uuid == uuid_of(1));
      auto file = std::make_unique<MemCowFile>(fixture.overlays[2]);
      file->writer = true;
      return file;
    };
    auto reader = CowReader::open(std::move(config)).value();
    const auto act = [&] {
      fixture.take_another();
      fixture.guest_writes(1);
    };
    at_once ? act() : fixture.meanwhile(act);
    CHECK(is_old(*reader));
    fixture.guest_writes(2);
    CHECK(is_old(*reader));
  }
  Fixture fixture;
  auto reader = fixture.open();
  fixture.take_another();
  fixture.guest_writes(1);
  CHECK_THAT(error_of(*reader), Catch::Contains("open it again"));
}

TEST_CASE("cow reader: a snapshot is read although the making of the next one broke off") {
  Fixture fixture;
  fixture.set_state(1, {.condition = CowCondition::kSealed, .opens = 1});
  CowReader::Config config = fixture.config(false);
  config.newer = [](const std::string&) -> Result<std::unique_ptr<CowFile>> { return nullptr; };
  fixture.guest_writes(2);
  CHECK(is_old(*CowReader::open(std::move(config)).value()));
}

TEST_CASE("cow reader: a snapshot that is broken meanwhile is an error, not wrong data") {
  Fixture fixture;
  auto reader = fixture.open();
  fixture.meanwhile([&] {
    fixture.set_state(1, {.condition = CowCondition::kBroken, .opens = 1, .reason = "full"});
    fixture.guest_writes(5, false);
  });
  CHECK_THAT(error_of(*reader), Catch::Contains("is broken: full"));
  CHECK_THAT(CowReader::open(fixture.config()).error().message, Catch::Contains("broken: full"));
}

TEST_CASE("cow reader: a VM that gives the snapshot up without a mark is noticed") {
  Fixture fixture;
  auto reader = fixture.open();
  fixture.meanwhile([&] {
    fixture.file->writer = false;
    fixture.guest_writes(5, false);
  });
  CHECK_THAT(error_of(*reader), Catch::Contains("has ended"));
  // Also one that came, and gave up, between two reads.
  Fixture later;
  auto early = later.open(false);
  CHECK(is_old(*early));
  later.set_state(1, {.condition = CowCondition::kOpen, .opens = 2});
  later.guest_writes(5, false);
  CHECK_THAT(error_of(*early), Catch::Contains("has ended"));
}

TEST_CASE("cow reader: a VM that starts while the snapshot is read disturbs nothing") {
  Fixture fixture;
  const CowBaseStamp stamp{.file = true, .size_bytes = kGrains * kGrain, .mtime_ns = 1};
  fixture.set_state(1, {.condition = CowCondition::kClean, .opens = 1, .base = stamp});
  CowReader::Config config = fixture.config(false);
  config.base_now = stamp;
  auto reader = CowReader::open(std::move(config)).value();
  CHECK(is_old(*reader));
  fixture.set_state(1, {.condition = CowCondition::kOpen, .opens = 2});
  fixture.file->writer = true;
  fixture.guest_writes(5);
  CHECK(is_old(*reader));
}

TEST_CASE("cow reader: a disk that was changed while nobody kept the snapshot is refused") {
  Fixture fixture;
  const CowBaseStamp stamp{.file = true, .size_bytes = kGrains * kGrain, .mtime_ns = 1};
  fixture.set_state(1, {.condition = CowCondition::kClean, .opens = 1, .base = stamp});
  CowReader::Config config = fixture.config(false);
  config.base_now = stamp;
  config.base_now->mtime_ns = 2;
  CHECK_THAT(CowReader::open(std::move(config)).error().message, Catch::Contains("was changed"));
}

TEST_CASE("cow reader: overlays that do not follow each other are refused") {
  Fixture fixture;
  fixture.take_another();
  MemCowFile second(fixture.overlays[2]);
  REQUIRE(relink_cow_overlay(second, uuid_of(9)).ok());
  CowReader::Config config = fixture.config();
  config.overlays.push_back(std::make_unique<MemCowFile>(fixture.overlays[2]));
  CHECK_THAT(CowReader::open(std::move(config)).error().message,
             Catch::Contains("does not follow"));
}

TEST_CASE("cow reader: a snapshot merged away between two opens is not missed") {
  // 1 and 3 are opened; what 2 had went into 1 after 1 was read for the first time.
  Fixture fixture;
  fixture.take_another();
  MemCowFile second(fixture.overlays[2]);
  CowReader::Config config = fixture.config();
  auto newest = std::make_unique<MemCowFile>(fixture.overlays[2]);
  newest->writer = true;
  newest->after_read = [&, done = false]() mutable {
    if (std::exchange(done, true)) return;
    fixture.newest = 1;
    fixture.guest_writes(4);
  };
  config.overlays.push_back(std::move(newest));
  auto reader = CowReader::open(std::move(config)).value();
  CHECK(is_old(*reader));
}

TEST_CASE("cow reader: over files, for a process that may only read") {
  const CowHeader header{.uuid = uuid_of(1), .disk = "image", .base_bytes = (1U << 20U) - 512};
  const TestImage image(header.base_bytes);
  const TestImage file(cow_file_bytes(header));
  auto overlay = CowFdFile::open(file.open(), "overlay").value();
  REQUIRE(format_cow_overlay(*overlay, header, "").ok());
  CowReader::Config config;
  config.base = CowFdFile::open(image.open(O_RDONLY), "image").value();
  config.overlays.push_back(CowFdFile::open(file.open(O_RDONLY), "overlay").value());
  auto reader = CowReader::open(std::move(config)).value();
  std::vector<std::byte> all(header.base_bytes, std::byte{1});
  REQUIRE(reader->read(0, all).ok());
  CHECK(std::count(all.begin(), all.end(), std::byte{0}) == static_cast<ptrdiff_t>(all.size()));
}

namespace {

// Writes at random places of a device, several at once, until it is told to end.
class Writer {
 public:
  Writer(BlockDevice& device, IoThread& thread, unsigned char value)
      : device_(device), thread_(thread), random_(value), data_(4096) {
    data_.fill(value);
    thread_.run([this] {
      for (Request& request : requests_) {
        request.writer = this;
        request.op = BlockOp::kWrite;
        request.done = [](BlockRequest& ended) {
          auto& own = static_cast<Request&>(ended);
          ENSURE(own.error == 0);
          own.writer->ended(own);
        };
        send(request);
      }
    });
  }
  ~Writer() {
    thread_.run([this] { ending_ = true; });
    idle_.acquire();
  }

 private:
  struct Request : BlockRequest {
    Writer* writer = nullptr;
    iovec part{};
  };
  void send(Request& request) {
    const auto blocks = static_cast<uint32_t>(device_.info().size_bytes / 4096);
    request.offset = uint64_t{random_.below(blocks)} * 4096;
    request.length = 4096;
    request.part = data_.part(0, 4096);
    request.iov = &request.part;
    request.iov_count = 1;
    device_.submit(request);
  }
  void ended(Request& request) {
    if (!ending_) return send(request);
    if (++ended_ == requests_.size()) idle_.release();
  }

  BlockDevice& device_;
  IoThread& thread_;
  SimRandom random_;
  const AlignedBuffer data_;
  std::array<Request, 8> requests_;
  size_t ended_ = 0;
  bool ending_ = false;
  std::binary_semaphore idle_{0};
};

}  // namespace

TEST_CASE("cow reader: files are read as of the instant while their disk is written") {
  constexpr uint64_t kSize = 32U << 20U;
  const TestImage image(kSize);
  const auto thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  for (int round = 1; round <= 3; ++round) {
    std::vector<std::byte> before(kSize);
    REQUIRE(CowFdFile::open(image.open(O_RDONLY), "image").value()->read(0, before).ok());
    const CowHeader header{.uuid = uuid_of(round), .disk = "image", .base_bytes = kSize};
    const TemporaryFolder folder;
    const std::string path = folder.path() + "/snapshot.cow";
    CowDevice::Parts parts;
    parts.below = FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value();
    parts.overlay =
        FileDevice::open({.fd = create_cow_overlay(path, header, "").value(), .label = path},
                         *thread)
            .value();
    CowReader::Config config;
    config.base = CowFdFile::open(image.open(O_RDONLY), "image").value();
    config.overlays.push_back(
        CowFdFile::open(open_file("overlay", path, O_RDONLY).value(), path).value());
    CowOverlay content = load_cow_overlay(*config.overlays[0]).value();
    CowDevice device(std::move(parts), std::move(content), {}, *thread);
    auto reader = CowReader::open(std::move(config)).value();
    const Writer writer(device, *thread, static_cast<unsigned char>(round));
    constexpr uint64_t kPiece = 256U << 10U;
    std::vector<std::byte> piece(kPiece);
    for (uint64_t at = 0; at < kSize; at += kPiece) {
      REQUIRE(reader->read(at, piece).ok());
      const bool same =
          std::equal(piece.begin(), piece.end(), before.begin() + static_cast<ptrdiff_t>(at));
      if (!same) FAIL("round " << round << ", other content from " << at << " on");
    }
  }
}

TEST_CASE("cow reader: a snapshot is a read-only disk") {
  Fixture fixture;
  fixture.guest_writes(3);
  const auto thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  auto device = CowSnapshotDevice::open(fixture.open(), 512, *thread).value();
  CHECK(device->info().read_only);
  CHECK(device->info().size_bytes == kGrains * kGrain);
  BlockClient<BlockDevice> client(*device, *thread);
  const AlignedBuffer buffer(kGrains * kGrain);
  CHECK(client.read(0, buffer) == 0);
  CHECK(buffer.all(0x11));
  CHECK(client.flush() == 0);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (uint64_t i = 0; i < 500; ++i) {
    auto& request = *requests.emplace_back(std::make_unique<TestRequest>());
    request.offset = i % kGrains * kGrain + 512;
    request.set_parts({buffer.part(0, 100), buffer.part(100, 412)});
    client.submit(request);
  }
  for (auto& request : requests) {
    thread->wait_for(request->ended);
    CHECK(request->error == 0);
  }
  fixture.set_state(1, {.condition = CowCondition::kBroken, .opens = 1, .reason = "full"});
  log::configure("test", log::Level::kNothing);
  CHECK(client.read(0, buffer) == EIO);
  log::configure("plumb", log::Level::kInfo);
  thread->run([] {});
}

}  // namespace plumb
