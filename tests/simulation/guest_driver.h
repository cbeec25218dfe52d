// GuestDriver: a guest's virtio-blk driver for one simulated disk, on top of FakeDriver's rings. It
// follows the specification to the letter where that matters: it kicks only when asked to, looks
// only when interrupted, and lays out its buffers in every way that is allowed.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/disk.h"
#include "tests/fakes/fake_driver.h"
#include "tests/simulation/checker.h"
#include "vmm/virtio/blk.h"

namespace plumb::simulation {

// Feature bits, section 5.2.3.
inline constexpr uint64_t kBlkFlush = 1ULL << 9U;
inline constexpr uint64_t kBlkConfigWce = 1ULL << 11U;

class GuestDriver {
 public:
  struct Config {
    uint64_t features = ~0ULL;  // wanted
    uint16_t queues = 1;
    uint16_t queue_size = 128;
    uint32_t depth = 8;       // requests in flight, at most queue_size / kChainParts
    uint32_t max_blocks = 8;  // of a request
    uint64_t seed = 1;        // of the buffers' layout
    bool odd_buffers = true;  // also buffers that direct I/O does not take
  };
  static constexpr uint32_t kChainParts = 10;

  struct Ask {
    BlockOp op = BlockOp::kRead;
    uint32_t first = 0;
    uint32_t blocks = 0;
    bool unmap = false;  // kWriteZeroes
    uint16_t queue = 0;
  };

  // All outlive the driver; `guest` is this driver's own.
  GuestDriver(const Config& config, FakeGuest& guest, Disk& disk, uint32_t number,
              SimEngine& engine, Checker& checker);

  // Negotiates and sets the device going; again after a reset.
  void start();
  bool has_room() const { return !free_.empty(); }
  uint32_t outstanding() const { return outstanding_; }
  // Puts a request into the available ring; needs room. The device sees it after publish().
  void ask(const Ask& ask);
  // The same with a request that must be refused, and reach no device; or one for the serial.
  void ask_something_else();
  void publish();
  // Takes what has been answered, if the device said so.
  void collect();
  // The driver changes the mode of the cache, where that was negotiated.
  void set_writeback(bool writeback);
  bool can_set_writeback() const { return (driver_.features() & kBlkConfigWce) != 0; }

  // For a test of the checker: as a device would that gives a chain back twice.
  void return_last_chain_again();

  // Resets the device: nothing is outstanding any more. From here on its memory is watched …
  void reset();
  // … until here, where it must be as it was.
  void check_untouched();

  // After a crash: asks for `blocks` from `first` on; what comes is what has survived.
  void ask_survivors(uint32_t first, uint32_t blocks);
  uint32_t max_blocks() const { return config_.max_blocks; }
  bool last_failed() const { return last_failed_; }

 private:
  struct Slot {
    GuestBuffer memory;
    GuestRequest request;
    uint32_t type = 0;
    uint8_t expected = 0;  // for what is not read or written: the status
    std::byte* data = nullptr;
    std::byte* status = nullptr;
    uint32_t writable = 0;
    bool checked = false;     // the checker knows of it
    bool recovering = false;  // its data is what survived a crash
    uint16_t queue = 0;
    uint16_t head = 0;
    bool busy = false;
  };
  // Where the chain's readable and writable bytes begin and end, in the slot's memory.
  struct Extent {
    uint32_t start = 0;
    uint32_t end = 0;
  };
  struct Ring {
    std::vector<uint32_t> slots;  // by head; kNoSlot: not in flight
    uint16_t kicked = 0;          // available index at the last publish()
    uint16_t collected = 0;
    unsigned interrupts = 0;
    uint16_t used_at_reset = 0;
  };
  static constexpr uint32_t kNoSlot = UINT32_MAX;
  static constexpr uint32_t kHeaderBytes = 16;

  Slot& take_slot(uint16_t queue);
  void fill_in(Slot& slot, const Ask& ask);
  void send(Slot& slot, uint32_t type, uint64_t sector, uint32_t out_bytes, uint32_t in_bytes);
  void add_parts(ChainBuilder& chain, const Slot& slot, Extent extent, uint32_t first_cut,
                 bool writable, bool odd);
  void answered(Slot& slot, uint32_t length);
  void give_back(Slot& slot);
  void collect_ring(uint16_t index);
  bool durable_now() const;

  const Config config_;
  FakeGuest& guest_;
  Disk& disk_;
  const uint32_t number_;
  const uint32_t block_size_;
  SimEngine& engine_;
  Checker& checker_;
  SimRandom random_;
  VirtioBlk device_;
  FakeDriver driver_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::vector<Ring> rings_;
  uint32_t outstanding_ = 0;
  bool writeback_ = false;
  bool last_failed_ = false;  // of the requests answered
};

}  // namespace plumb::simulation
