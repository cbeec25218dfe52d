// Requests, holds and resets in any order, on a real image: nothing hangs, no head is answered
// twice, nothing of the guest is touched after a reset. Each round is its own seed.
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
  Round(unsigned seed, Disk& disk, VirtioBlk& blk)
      : random_(seed), disk_(disk), guest_(16U << 20U), driver_(guest_, blk) {
    ENSURE(driver_.start().ok());
    status_ = guest_.allocate(kQueues * kRequests);
    data_ = guest_.allocate(64U << 10U, 4096);
  }

  void run() {
    // A coordinator holds the disk now and then, on a thread of its own.
    std::thread holder([this, holds = pick(4)] {
      for (unsigned i = 0; i < holds; ++i) hold_once();
    });
    for (uint32_t i = 0; i < kRequests; ++i) {
      for (uint16_t queue = 0; queue < kQueues; ++queue) send(queue, i);
    }
    for (unsigned i = pick(kRequests); i > 0; --i) {
      const FakeQueue::Used used = driver_.queue(0).wait_used();
      ENSURE(in_flight_[0].erase(used.head) == 1);
    }
    driver_.reset();
    // From here on the memory is the guest's alone.
    const uint16_t used_index = driver_.queue(1).used_index();
    status_.fill(0x5a);
    data_.fill(0x5a);
    holder.join();
    disk_.thread().run([] {});
    ENSURE(driver_.queue(1).used_index() == used_index);
    ENSURE(status_.all(0x5a) && data_.all(0x5a));
    while (const auto used = driver_.queue(1).next_used()) {
      ENSURE(in_flight_[1].erase(used->head) == 1);
    }
  }

 private:
  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }

  void hold_once() {
    std::binary_semaphore drained(0);
    disk_.thread().run([&] { disk_.hold(kForever, [&](Result<>) { drained.release(); }); });
    drained.acquire();
    disk_.thread().run([&] {
      ENSURE(disk_.in_flight() == 0);
      disk_.release();
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
  FakeGuest guest_;
  FakeDriver driver_;
  GuestBuffer status_;
  GuestBuffer data_;
  std::set<uint16_t> in_flight_[kQueues];
};

}  // namespace

TEST_CASE("stress: requests, holds and resets in any order") {
  for (const EngineKind kind : {EngineKind::kUring, EngineKind::kLibaio}) {
    IoThread::Config config;
    config.name = "io-test";
    config.engine = kind;
    const auto thread = IoThread::start(std::move(config)).value();
    const TestImage image(kSize);
    Disk disk({.id = "data", .serial = "", .cache = CacheMode::kWriteback},
              FileDevice::open({.fd = image.open(), .label = "image"}, *thread).value(), *thread);
    VirtioBlk blk(disk, kQueues);
    for (unsigned seed = 1; seed <= 20; ++seed) {
      INFO("seed " << seed << " on " << thread->engine_name());
      Round(seed, disk, blk).run();
      CHECK(true);  // so that a failing ENSURE above is not the only sign of life
    }
  }
}

}  // namespace plumb
