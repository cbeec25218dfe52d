// CowChecker: rule I9 of checker.h. After each step at a disk or an overlay, whatever a crash at
// that moment could leave of them must read, for each snapshot that is kept, as the disk was at its
// instant. Blocks are torn from each other independently, so each outcome of the table's block is
// combined with each of the grain's blocks.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "blockdev/cow_overlay_format.h"
#include "blockdev/sim_engine.h"
#include "tests/simulation/checker.h"

namespace plumb::simulation {

struct KeptSnapshot {
  CowHeader header;
  std::unique_ptr<SimDevice> overlay;
  // By block of the disk: its value; several, where a write had failed, and nobody can tell.
  std::vector<std::vector<BlockValue>> content;
  bool deleted = false;            // its overlay is there for older ones, or to be written
  bool given_up = false;           // known to be broken, by the overlay or from elsewhere
  std::optional<uint32_t> device;  // the overlay's number in the engine of this life
};

class CowChecker final : public SimObserver {
 public:
  struct Counters {
    uint64_t crash_points = 0;
    uint64_t outcomes = 0;     // grains' contents compared for that
    uint64_t blocks_read = 0;  // by readers, compared
  };

  // Of disk 0 of the checker, which is told of violations. Snapshots are in order, oldest first.
  explicit CowChecker(Checker& checker) : checker_(checker) {}

  std::vector<KeptSnapshot>& snapshots() { return snapshots_; }
  // Of this life.
  void set_engine(SimEngine* engine) { engine_ = engine; }
  const Counters& counters() const { return counters_; }

  void stepped(const SimStep& step) override;
  // What a reader has found of the snapshot, from `first` block on.
  void check_read(const KeptSnapshot& snapshot, uint32_t first, std::span<const std::byte> bytes);

 private:
  struct Range {  // of grains
    uint64_t first = 0;
    uint64_t end = 0;
  };
  // What a crash may leave of the table.
  struct Recorded {
    bool maybe = false;
    bool maybe_not = false;
  };
  Range touched(const SimStep& step) const;
  bool may_be_whole(const KeptSnapshot& newer) const;
  Recorded recorded(const KeptSnapshot& snapshot, uint64_t grain) const;
  void check_grain(size_t index, uint64_t grain);
  void check_block(const KeptSnapshot& snapshot, uint32_t block, const std::byte* bytes,
                   const char* where);
  template <typename See>
  void visit(const KeptSnapshot& snapshot, uint64_t at, See see) const;

  Checker& checker_;
  SimEngine* engine_ = nullptr;
  std::vector<KeptSnapshot> snapshots_;
  Counters counters_;
};

}  // namespace plumb::simulation
