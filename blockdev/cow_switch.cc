#include "blockdev/cow_switch.h"

#include <utility>

#include "blockdev/gone_device.h"

namespace plumb {
namespace {

// The steps of begin_cow(); lives until the last.
struct Beginning : BlockRequest {
  Disk* disk = nullptr;
  CowBegin begin;
  std::unique_ptr<BlockDevice> device;  // of the disk, which has none meanwhile
  std::move_only_function<void(Result<CowBegun>)> ended;

  static void flushed(BlockRequest& request) {
    auto& self = static_cast<Beginning&>(request);
    if (self.error != 0) {
      return self.fail(os_error(self.error, "disk {} cannot be flushed", self.disk->config().id));
    }
    CowDevice* present = self.begin.present;
    if (present == nullptr || present->is_broken()) return self.change();
    present->record({.condition = CowCondition::kSealed}, [&self](Result<> sealed) {
      sealed.ok() ? self.change() : self.fail(std::move(sealed).error());
    });
  }

  void change() {
    CowBegun begun;
    if (begin.present != nullptr) {
      CowDevice::Parts parts = begin.present->take_apart();
      device = std::move(parts.below);
      begun.previous = std::move(parts.overlay);
    }
    auto made = std::make_unique<CowDevice>(
        CowDevice::Parts{.below = std::move(device), .overlay = std::move(begin.overlay)},
        std::move(begin.content), std::move(begin.config), disk->thread());
    begun.device = made.get();
    disk->replace_device(std::move(made));
    end(std::move(begun));
  }
  void fail(Error why) {
    disk->replace_device(std::move(device));
    end(std::move(why));
  }
  void end(Result<CowBegun> result) {
    const std::unique_ptr<Beginning> self(this);
    self->ended(std::move(result));
  }
};

}  // namespace

void begin_cow(Disk& disk, CowBegin begin, std::move_only_function<void(Result<CowBegun>)> done) {
  auto beginning = std::make_unique<Beginning>();
  beginning->disk = &disk;
  beginning->begin = std::move(begin);
  beginning->ended = std::move(done);
  beginning->op = BlockOp::kFlush;
  beginning->done = Beginning::flushed;
  beginning->device = disk.replace_device(std::make_unique<GoneDevice>(disk.info()));
  BlockDevice& device = *beginning->device;
  device.submit(*beginning.release());
}

void end_cow(Disk& disk, CowDevice& present, CowState last,
             std::move_only_function<void(Result<std::unique_ptr<BlockDevice>>)> done) {
  present.record(std::move(last),
                 [&disk, &present, done = std::move(done)](Result<> recorded) mutable {
                   if (!recorded.ok()) return done(std::move(recorded).error());
                   done(drop_cow(disk, present));
                 });
}

std::unique_ptr<BlockDevice> drop_cow(Disk& disk, CowDevice& present) {
  const std::unique_ptr<BlockDevice> device =
      disk.replace_device(std::make_unique<GoneDevice>(disk.info()));
  ENSURE(device.get() == &present);
  CowDevice::Parts parts = present.take_apart();
  disk.replace_device(std::move(parts.below));
  return std::move(parts.overlay);
}

}  // namespace plumb
