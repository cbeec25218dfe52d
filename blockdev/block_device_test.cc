// The conformance suite over every block device, on every engine.
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <sstream>

#include "base/file.h"
#include "blockdev/file_device.h"
#include "blockdev/file_facts.h"
#include "blockdev/mem_device.h"
#include "tests/conformance/block_device_suite.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

constexpr uint64_t kSize = 16U << 20U;
const auto kBothEngines = {EngineKind::kUring, EngineKind::kLibaio};

std::unique_ptr<IoThread> start(EngineKind kind) {
  IoThread::Config config;
  config.name = "io-test";
  config.engine = kind;
  return IoThread::start(std::move(config)).value();
}

// A loop device over an image, while it lives.
class LoopDevice {
 public:
  LoopDevice(const TestImage& image, uint32_t block_size) {
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const int number = control.valid() ? ::ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (number < 0) return;
    path_ = "/dev/loop" + std::to_string(number);
    fd_ = UniqueFd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    const UniqueFd file = image.open();
    loop_config config{};
    config.fd = static_cast<uint32_t>(file.get());
    config.block_size = block_size;
    config.info.lo_flags = LO_FLAGS_DIRECT_IO;
    if (fd_.valid() && ::ioctl(fd_.get(), LOOP_CONFIGURE, &config) != 0) fd_.reset();
  }
  ~LoopDevice() {
    if (fd_.valid()) ::ioctl(fd_.get(), LOOP_CLR_FD, 0);
  }
  bool usable() const { return fd_.valid(); }
  // "7:3"
  std::string number() const { return read_attribute("/sys/block/" + path_.substr(5) + "/dev"); }
  // Flushes that the kernel has sent to it (Documentation/block/stat.rst, field 16).
  uint64_t flushes() const {
    std::istringstream fields(read_attribute("/sys/block/" + path_.substr(5) + "/stat"));
    uint64_t value = 0;
    for (int field = 0; field < 16; ++field) fields >> value;
    return value;
  }
  UniqueFd open() const { return open_file("device", path_, O_RDWR | O_DIRECT | O_EXCL).value(); }

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace

TEST_CASE("conformance: memory") {
  for (const EngineKind kind : kBothEngines) {
    for (const uint32_t block : {512U, 4096U}) {
      const auto thread = start(kind);
      BlockInfo info;
      info.size_bytes = kSize;
      info.logical_block_size = block;
      info.physical_block_size = block;
      info.max_discard_bytes = kSize;
      info.max_write_zeroes_bytes = kSize;
      MemDevice device(info, *thread);
      conformance::run_block_device_suite(device, *thread);
    }
  }
}

TEST_CASE("conformance: image file") {
  for (const EngineKind kind : kBothEngines) {
    const auto thread = start(kind);
    const TestImage image(kSize);
    const auto device =
        FileDevice::open({.fd = image.open(), .label = image.path()}, *thread).value();
    conformance::run_block_device_suite(*device, *thread);
  }
}

TEST_CASE("limits and cache of a block device come from its queue") {
  const TestImage image(kSize);
  const LoopDevice loop(image, 512);
  if (!loop.usable()) {
    WARN("skipped: no loop device (not root?)");
    return;
  }
  const TemporaryFolder sysfs;
  const std::string queue = sysfs.path() + "/dev/block/" + loop.number() + "/queue";
  REQUIRE(make_folders(queue).ok());
  const auto set = [&queue](const std::string& name, const std::string& value) {
    REQUIRE(replace_file(queue + "/" + name, value + "\n").ok());
  };
  const UniqueFd fd = loop.open();
  const auto facts = [&] {
    return find_file_facts({.fd = fd.get(), .label = "lun", .sysfs_root = sysfs.path()})
        .value()
        .info;
  };
  // Without sysfs: no discard, and a cache that counts as volatile.
  CHECK(facts().volatile_cache);
  CHECK(facts().max_discard_bytes == 0);
  CHECK(facts().memory_alignment == 512);
  set("write_cache", "write through");
  set("dma_alignment", "3");
  set("optimal_io_size", "65536");
  set("discard_max_bytes", "1048576");
  set("discard_granularity", "8192");
  CHECK(!facts().volatile_cache);
  CHECK(facts().memory_alignment == 4);
  CHECK(facts().optimal_io_size == 65536);
  CHECK(facts().max_discard_bytes == 1U << 20U);
  CHECK(facts().discard_granularity == 8192);
  set("write_cache", "write back");
  CHECK(facts().volatile_cache);
}

TEST_CASE("the kernel is asked to make durable writes durable, and no others") {
  for (const EngineKind kind : kBothEngines) {
    const TestImage image(kSize);
    const LoopDevice loop(image, 512);
    if (!loop.usable()) {
      WARN("skipped: no loop device (not root?)");
      return;
    }
    const auto thread = start(kind);
    const auto device = FileDevice::open({.fd = loop.open(), .label = "loop"}, *thread).value();
    // A device with a volatile cache and without FUA: each durable write is followed by a flush.
    REQUIRE(device->info().volatile_cache);
    BlockClient<BlockDevice> client(*device, *thread);
    const AlignedBuffer data(8192);
    uint64_t before = loop.flushes();
    for (uint64_t i = 0; i < 10; ++i) REQUIRE(client.write(i * 8192, data, false) == 0);
    CHECK(loop.flushes() - before == 0);
    before = loop.flushes();
    for (uint64_t i = 0; i < 10; ++i) REQUIRE(client.write(i * 8192, data, true) == 0);
    CHECK(loop.flushes() - before == 10);
    before = loop.flushes();
    // Several buffers, and misaligned ones, go other ways through the engine.
    for (uint64_t i = 0; i < 10; ++i) {
      REQUIRE(client.transfer(BlockOp::kWrite, 0, {data.part(0, 512), data.part(4096, 512)},
                              true) == 0);
      REQUIRE(client.transfer(BlockOp::kWrite, 0, {data.part(1, 512)}, true) == 0);
    }
    CHECK(loop.flushes() - before == 20);
    before = loop.flushes();
    REQUIRE(client.flush() == 0);
    CHECK(loop.flushes() - before == 1);
  }
}

TEST_CASE("conformance: block device") {
  for (const EngineKind kind : kBothEngines) {
    for (const uint32_t block : {512U, 4096U}) {
      const TestImage image(kSize);
      const LoopDevice loop(image, block);
      if (!loop.usable()) {
        WARN("skipped: no loop device of " << block << "-byte blocks (not root?)");
        continue;
      }
      const auto thread = start(kind);
      const auto device = FileDevice::open({.fd = loop.open(), .label = "loop"}, *thread).value();
      CHECK(device->info().logical_block_size == block);
      CHECK(device->info().size_bytes == kSize);
      conformance::run_block_device_suite(*device, *thread);
    }
  }
}

}  // namespace plumb
