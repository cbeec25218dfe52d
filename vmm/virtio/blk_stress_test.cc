// Requests, holds, growth and resets in any order, on a real image: nothing hangs, no head is
// answered twice, nothing of the guest is touched after a reset. Each round is its own seed.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <thread>

#include "blockdev/file_device.h"
#include "tests/fakes/fake_driver.h"
#include "tests/fakes/test_image.h"
#include "vmm/virtio/blk.h"

namespace plumb {
namespace {

constexpr uint64_t kSize = 8U << 20U;
constexpr uint16_t kQueues = 2;
constexpr uint32_t kRequests = 100;

class Round {
 public:
  Round(unsigned seed, Disk& disk, VirtioBlk& blk, const std::string& image)
      : random_(seed), disk_(disk), image_(image), guest_(16U << 20U), driver_(guest_, blk) {
    ENSURE(driver_.start().ok());
    status_ = guest_.allocate(kQueues * kRequests);
    data_ = guest_.allocate(64U << 10U, 4096);
  }

  void run() {
    // A control thread holds the disk, and grows it, now and then.
    std::thread control([this, holds = pick(4), grow = pick(2) == 0, in_time = pick(2) == 0] {
      for (unsigned i = 0; i < holds; ++i) hold_once(in_time ? kForever : 0);
      if (grow) grow_once();
    });
    for (uint32_t i = 0; i < kRequests; ++i) {
      for (uint16_t queue = 0; queue < kQueues; ++queue) send(queue, i);
    }
    for (unsigned i = pick(kRequests); i > 0; --i) {
      ENSURE(driver_.config<uint64_t>(0) >= kSize / 512);
      const FakeQueue::Used used = driver_.queue(0).wait_used();
      ENSURE(in_flight_[0].erase(used.head) == 1);
    }
    driver_.reset();
    // From here on the memory is the guest's alone.
    const uint16_t used_index = driver_.queue(1).used_index();
    status_.fill(0x5a);
    data_.fill(0x5a);
    control.join();
    disk_.thread().run([] {});
    ENSURE(driver_.queue(1).used_index() == used_index);
    ENSURE(status_.all(0x5a) && data_.all(0x5a));
    while (const auto used = driver_.queue(1).next_used()) {
      ENSURE(in_flight_[1].erase(used->head) == 1);
    }
  }

 private:
  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }

  // With a deadline of 0 the hold is over at once, unless nothing is in flight.
  void hold_once(int64_t deadline_ns) {
    std::binary_semaphore ended(0);
    bool held = false;
    disk_.thread().run([&] {
      disk_.hold(deadline_ns, [&](const Result<>& drained) {
        held = drained.ok();
        ended.release();
      });
    });
    ended.acquire();
    disk_.thread().run([&] {
      if (!held) return;
      ENSURE(disk_.in_flight() == 0);
      disk_.release();
    });
  }

  void grow_once() {
    disk_.thread().run([this] {
      const uint64_t size = disk_.info().size_bytes + (1U << 20U);
      ENSURE(::truncate(image_.c_str(), static_cast<off_t>(size)) == 0);
      ENSURE(disk_.reread_size().ok());
      ENSURE(disk_.info().size_bytes == size);
    });
  }

  void send(uint16_t index, uint32_t number) {
    constexpr uint32_t kTypes[] = {0, 0, 0, 1, 1, 1, 4, 8, 99};
    const struct {
      uint32_t type;
      uint32_t reserved;
      uint64_t sector;
    } header{kTypes[pick(9)], 0, pick(17'000)};  // some beyond the end
    const GuestBuffer data = data_.part(pick(64) * 512, 512 * (1 + pick(16)));
    FakeQueue& queue = driver_.queue(index);
    ChainBuilder chain = queue.chain().indirect().readable(guest_.place(header));
    if (header.type == 0) chain.writable(data);
    if (header.type == 1) chain.readable(data);
    chain.writable(status_.part(index * kRequests + number, 1));
    const uint16_t head = chain.add_available();
    ENSURE(in_flight_[index].insert(head).second);
    queue.publish();
    queue.kick();
  }

  std::mt19937 random_;
  Disk& disk_;
  const std::string image_;
  FakeGuest guest_;
  FakeDriver driver_;
  GuestBuffer status_;
  GuestBuffer data_;
  std::set<uint16_t> in_flight_[kQueues];
};

}  // namespace

TEST_CASE("stress: requests, holds, growth and resets in any order") {
  for (const EngineKind kind : {EngineKind::kUring, EngineKind::kLibaio}) {
    IoThread::Config config;
    config.name = "io-test";
    config.engine = kind;
    config.poll_max_ns = 20'000;
    const auto thread = IoThread::start(std::move(config)).value();
    const TestImage image(kSize);
    Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWriteback},
              FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value(), *thread);
    VirtioBlk blk(disk, kQueues);
    for (unsigned seed = 1; seed <= 20; ++seed) {
      INFO("seed " << seed << " on " << thread->engine_name());
      Round(seed, disk, blk, image.path()).run();
      CHECK(true);  // so that a failing ENSURE above is not the only sign of life
    }
  }
}

}  // namespace plumb
