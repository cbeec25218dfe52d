// Fuzzes the registers of a virtio-pci function: a driver that sets the device up as section 3.1.1
// says and uses it, with rare faults in what it writes and now and then an access of any width
// anywhere in the BAR. What must hold: from DRIVER_OK to reset the queues' registers are what the
// device was started with, doorbells are there just as long, no vector is beyond the table; and as
// long as the driver has done nothing wrong, the device serves it and interrupts.
#include "base/file.h"
#include "base/log.h"
#include "tests/fakes/pci_driver.h"
#include "tests/fuzz/fuzz_requests.h"
#include "tests/fuzz/inline_blk.h"

namespace {

using namespace plumb;

constexpr uint64_t kRam = 2U << 20U;
constexpr uint32_t kBarBytes = 0x8000;
constexpr int kMaxSteps = 40;
constexpr uint16_t kQueues = InlineBlk::kSizes.size();
constexpr uint16_t kVectors = kQueues + 1;
// Of each queue: its rings, then its requests' memory.
constexpr uint64_t kQueueMemory = 0x80000;

const GuestMemory& ram() {
  static const std::unique_ptr<GuestMemory> memory =
      GuestMemory::create({.size_bytes = kRam}).value();
  return *memory;
}

struct Round {
  explicit Round(FuzzedDataProvider& data) : input(data) {
    auto made = std::make_unique<InlineBlk>(state, disk);
    device = made.get();
    driver.emplace(std::move(made), ram());
  }

  bool faulty() {
    if (!rarely(input)) return false;
    wild = true;
    return true;
  }
  // A register write, rarely of another value, elsewhere, or not at all.
  template <typename T>
  void write(uint64_t offset, T value) {
    if (faulty()) {
      switch (input.ConsumeIntegralInRange<int>(0, 2)) {
        case 0:
          value = input.ConsumeIntegral<T>();
          break;
        case 1:
          offset = input.ConsumeIntegralInRange<uint64_t>(0, kBarBytes - 1);
          break;
        default:
          return;
      }
    }
    driver->write<T>(offset, value);
  }

  void set_up() {
    using namespace common_cfg;
    const uint32_t at = driver->common;
    driver->set_status(0);
    ENSURE(driver->status() == 0 && !state.active);
    wild = false;
    running = false;
    broken = false;
    known = true;
    std::memset(content.data(), 0, content.size());
    std::memset(disk.data(), 0, disk.size());
    write<uint8_t>(at + kStatus, kPciDriverReady);
    uint64_t features = kVirtioFVersion1;
    if (input.ConsumeBool()) features |= kVirtioFIndirectDesc;
    if (input.ConsumeBool()) features |= kVirtioFEventIdx;
    for (uint32_t half = 0; half < 2; ++half) {
      write<uint32_t>(at + kDriverFeatureSelect, half);
      write<uint32_t>(at + kDriverFeature, static_cast<uint32_t>(features >> (32 * half)));
    }
    write<uint8_t>(at + kStatus, kPciDriverReady | kVirtioFeaturesOk);
    write<uint16_t>(at + kConfigVector, 0);
    for (uint16_t i = 0; i < kQueues; ++i) set_up_queue(i, (features & kVirtioFIndirectDesc) != 0);
    set_up_vectors();
    write<uint8_t>(at + kStatus, kPciDriverReady | kVirtioFeaturesOk | kVirtioDriverOk);
    check_registers();
    if (wild) return;
    ENSURE(state.active && state.features == features);
    ENSURE((driver->status() & kVirtioNeedsReset) == 0);
    running = true;
  }

  void set_up_queue(uint16_t index, bool indirect) {
    using namespace common_cfg;
    const uint32_t at = driver->common;
    const auto size =
        std::min(static_cast<uint16_t>(1U << input.ConsumeIntegralInRange<unsigned>(0, 6)),
                 InlineBlk::kSizes[index]);
    const GuestAddress base = index * kQueueMemory;
    requests[index].reset();
    rings[index].emplace(input, ram(), base, size, indirect, broken);
    requests[index].emplace(
        input, ram(), *rings[index], base + FuzzRing::kBytes, index * FuzzRequests::kSectors,
        std::span(content).subspan(index * FuzzRequests::kSectors, FuzzRequests::kSectors), known);
    const VirtioQueueSetup setup = rings[index]->setup();
    const GuestAddress places[] = {setup.descriptors, setup.driver_ring, setup.device_ring};
    write<uint16_t>(at + kQueueSelect, index);
    write<uint16_t>(at + kQueueSize, size);
    write<uint16_t>(at + kQueueVector, index + 1);
    for (uint32_t ring = 0; ring < 3; ++ring) {
      if (input.ConsumeBool()) {
        write<uint64_t>(at + kQueueDesc + 8 * ring, places[ring]);
      } else {
        write<uint32_t>(at + kQueueDesc + 8 * ring, static_cast<uint32_t>(places[ring]));
        write<uint32_t>(at + kQueueDesc + 8 * ring + 4, 0);
      }
    }
    write<uint16_t>(at + kQueueEnable, 1);
  }

  void set_up_vectors() {
    driver->set_config<uint16_t>(driver->msix + 2, kMsixEnable);
    for (uint32_t vector = 0; vector < kVectors; ++vector) {
      write<uint32_t>(kPciMsixTable + 16 * vector, 0xfee00000);
      write<uint32_t>(kPciMsixTable + 16 * vector + 4, 0);
      write<uint32_t>(kPciMsixTable + 16 * vector + 8, 0x40 + vector);
      write<uint32_t>(kPciMsixTable + 16 * vector + 12, 0);
    }
  }

  void step() {
    const auto queue = input.ConsumeIntegralInRange<uint16_t>(0, kQueues - 1);
    switch (input.ConsumeIntegralInRange<int>(0, 9)) {
      case 0:
      case 1:
      case 2:
        if (requests[queue]) requests[queue]->send();
        break;
      case 3:
      case 4:
        ring_doorbell(queue);
        break;
      case 5:
        device->serve();
        break;
      case 6:
        serve_all();
        break;
      case 7:
        set_mask(input.ConsumeIntegralInRange<uint32_t>(0, kVectors - 1), input.ConsumeBool());
        break;
      case 8:
        any_access();
        break;
      default:
        if (rarely(input)) set_up();
        check_registers();
        break;
    }
  }

  // As on KVM: where there is an ioeventfd, the write does not reach the bus.
  void ring_doorbell(uint16_t queue) {
    const uint64_t address = driver->bar + driver->notify + 4ULL * queue;
    const auto doorbell = driver->events.doorbells.find(address);
    if (doorbell != driver->events.doorbells.end() && input.ConsumeBool()) {
      signal_eventfd(doorbell->second);
    } else {
      driver->write<uint16_t>(driver->notify + 4ULL * queue, queue);
    }
  }

  void set_mask(uint32_t vector, bool masked) {
    driver->write<uint32_t>(kPciMsixTable + 16 * vector + 12, masked ? 1 : 0);
  }

  // A write ends what can be said of the device, so most are reads; not of the ISR, which would
  // clear it.
  void any_access() {
    std::array<std::byte, 8> value{};
    const auto width = input.ConsumeIntegralInRange<size_t>(1, 8);
    const uint64_t at = input.ConsumeIntegralInRange<uint64_t>(0, 0x3f);
    const uint64_t region = 0x1000ULL * input.ConsumeIntegralInRange<uint64_t>(0, 7);
    if (input.ConsumeIntegralInRange<int>(0, 7) < 7) {
      if (region == driver->isr) return;
      driver->mmio.read(driver->bar + region + at, std::span(value).first(width));
      return;
    }
    wild = true;
    running = false;
    store_le(value.data(), input.ConsumeIntegral<uint64_t>());
    driver->mmio.write(driver->bar + region + at, std::span<const std::byte>(value).first(width));
  }

  // Everything is asked for, served and taken; whoever wants to know has been told.
  void serve_all() {
    for (uint16_t queue = 0; queue < kQueues; ++queue) ring_doorbell(queue);
    device->serve();
    if (!running) return;
    const bool told = (driver->read<uint8_t>(driver->isr) & 1) != 0;
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      if (broken) return;
      const bool news = requests[queue]->waiting() > 0;
      requests[queue]->collect();
      ENSURE(requests[queue]->waiting() == 0);
      if (!news || (state.features & kVirtioFEventIdx) != 0) continue;
      ENSURE(told);
      check_interrupt(queue + 1U);
    }
  }
  // An unmasked vector has a route, and what was pending comes with the unmasking.
  void check_interrupt(uint32_t vector) {
    set_mask(vector, false);
    for (size_t route = 0; route < driver->events.routes.size(); ++route) {
      if (driver->events.routes[route].message.data != 0x40 + vector) continue;
      ENSURE(driver->events.take_signals(route) > 0);
      return;
    }
    ENSURE(false);
  }

  // Leaves the selectors as they were.
  void check_registers() {
    using namespace common_cfg;
    const uint32_t at = driver->common;
    const uint8_t status = driver->status();
    const bool ok = (status & kVirtioDriverOk) != 0;
    ENSURE(ok == state.active);
    ENSURE(!ok || (status & kVirtioFeaturesOk) != 0);
    ENSURE(driver->events.doorbells.size() == (ok ? kQueues : 0));
    ENSURE(driver->read<uint16_t>(at + kNumQueues) == kQueues);
    const auto good_vector = [](uint16_t value) { return value < kVectors || value == 0xffff; };
    ENSURE(good_vector(driver->read<uint16_t>(at + kConfigVector)));
    ENSURE((driver->read<uint64_t>(kPciMsixPending) >> kVectors) == 0);
    const auto selected = driver->read<uint16_t>(at + kQueueSelect);
    for (uint16_t i = 0; i < kQueues; ++i) {
      driver->select(i);
      ENSURE(good_vector(driver->read<uint16_t>(at + kQueueVector)));
      const auto size = driver->read<uint16_t>(at + kQueueSize);
      ENSURE(std::has_single_bit(size) && size <= InlineBlk::kSizes[i]);
      if (!ok) continue;
      const VirtioQueueSetup& setup = state.setups[i];
      ENSURE(size == setup.size);
      ENSURE(driver->read<uint16_t>(at + kQueueEnable) == (setup.enabled ? 1 : 0));
      ENSURE(driver->ring(0) == setup.descriptors);
      ENSURE(driver->ring(1) == setup.driver_ring);
      ENSURE(driver->ring(2) == setup.device_ring);
    }
    driver->select(selected);
  }

  FuzzedDataProvider& input;
  std::array<std::byte, kQueues * FuzzRequests::kSectors * kBlkSectorBytes> disk;
  std::array<uint8_t, kQueues * FuzzRequests::kSectors> content;
  InlineBlkState state;
  std::optional<PciDriver> driver;
  InlineBlk* device = nullptr;
  std::optional<FuzzRing> rings[kQueues];
  std::optional<FuzzRequests> requests[kQueues];
  bool wild = false;     // the driver did something wrong since the last reset
  bool running = false;  // set up well, and nothing wrong since
  bool broken = false;   // a word of a ring
  bool known = true;     // what is on the disk
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const bool quiet = (log::configure("fuzz", log::Level::kError), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, bytes);
  Round round(input);
  round.set_up();
  for (int steps = 0; steps < kMaxSteps && input.remaining_bytes() > 0; ++steps) round.step();
  if (round.wild) round.set_up();  // a reset heals everything
  return 0;
}
