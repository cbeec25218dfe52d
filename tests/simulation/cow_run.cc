#include "tests/simulation/cow_run.h"

#include <fmt/core.h>

#include <algorithm>

#include "blockdev/cow_reader.h"
#include "blockdev/cow_switch.h"
#include "blockdev/gone_device.h"
#include "tests/simulation/draws.h"
#include "tests/simulation/planted_overlay.h"
#include "tests/simulation/sim_cow_file.h"

namespace plumb::simulation {
namespace {

constexpr uint32_t kGrainBytes = 4096;
constexpr size_t kMostSnapshots = 5;

class CowRun {
 public:
  CowRun(const CowRunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests)
      : config_(config), draws_(config.seed), guests_(guests), cow_(checker_) {
    if (config.trace) checker_.narrate();
    plan_ = draws_.disk();
    trouble_ = draws_.trouble();
    disk_ = std::make_unique<SimDevice>(plan_.medium);
    checker_.add_disk(*disk_);
    checker_.also_tell(&cow_);
  }

  CowRunResult run() {
    for (uint32_t life = 0; life < config_.lives && !checker_.violation(); ++life) live(life > 0);
    result_.run.counters = checker_.counters();
    result_.run.trace = checker_.trace();
    result_.run.violation = checker_.violation();
    result_.counters = cow_.counters();
    return result_;
  }

 private:
  using Snapshots = std::vector<KeptSnapshot>;

  void live(bool recover);
  void attach();
  void act();
  void disturb();
  void take();
  void drained(bool in_time);
  void begun(Result<CowBegun> result);
  void broken(const CowBreak& why);
  void go_on();
  void end_life();
  std::unique_ptr<BlockDevice> open_overlay(KeptSnapshot& snapshot);
  CowDevice::Config device_config();
  KeptSnapshot make_snapshot();
  void read(size_t index, bool alive);
  std::unique_ptr<CowReader> open_reader(size_t index, bool alive);
  std::unique_ptr<CowFile> overlay_file(KeptSnapshot& snapshot, bool alive);
  bool is_kept(const std::string& uuid);
  void drop_broken();
  void merge();
  void remove(size_t index);
  void read_all();

  const CowRunConfig& config_;
  Draws draws_;
  std::vector<std::unique_ptr<FakeGuest>>& guests_;
  DiskPlan plan_;
  Trouble trouble_ = Trouble::kNone;
  std::unique_ptr<SimDevice> disk_;
  Checker checker_;
  CowChecker cow_;
  CowRunResult result_;

  // Of this life.
  std::unique_ptr<Machine> machine_;
  CowDevice* present_ = nullptr;
  bool has_writer_ = false;  // the newest overlay
  std::optional<KeptSnapshot> beginning_;
  bool unmarked_ = false;  // go_on() is due
  bool ending_ = false;    // … at once
  bool reading_ = false;
  std::vector<std::unique_ptr<SimDevice>> removed_;  // the engine still knows them
};

// --- Lives ---

void CowRun::live(bool recover) {
  plan_.driver.seed = draws_.random.next();
  machine_ = std::make_unique<Machine>(
      Machine::Config{.engine = draws_.engine(trouble_, {}), .disks = {plan_}, .decorate = {}},
      guests_, checker_);
  cow_.set_engine(&machine_->engine());
  if (config_.bug == CowBug::kNoFlush) {
    Disk& disk = machine_->disk(0);
    auto below = disk.replace_device(std::make_unique<GoneDevice>(disk.info()));
    disk.replace_device(
        std::make_unique<PlantedOverlay>(config_.bug, 0, std::move(below), disk.thread()));
  }
  attach();
  if (recover) machine_->recover();
  for (uint32_t i = 0; i < config_.turns_per_life && !checker_.violation(); ++i) act();
  end_life();
  read_all();
}

// As a VM that starts: the newest overlay is there again.
void CowRun::attach() {
  drop_broken();
  if (cow_.snapshots().empty()) return;
  KeptSnapshot& newest = cow_.snapshots().back();
  SimCowFile file(*newest.overlay);
  Result<CowOverlay> content =
      open_cow_overlay(file, newest.header.disk, {.size_bytes = newest.header.base_bytes});
  if (!content.ok()) return checker_.violate("I9", 0, content.error().message);
  auto below =
      machine_->disk(0).replace_device(std::make_unique<GoneDevice>(machine_->disk(0).info()));
  auto device = std::make_unique<CowDevice>(
      CowDevice::Parts{.below = std::move(below), .overlay = open_overlay(newest)},
      std::move(content).value(), device_config(), machine_->disk(0).thread());
  present_ = device.get();
  has_writer_ = true;
  machine_->disk(0).replace_device(std::move(device));
}

void CowRun::end_life() {
  machine_->engine().find_path();
  if (draws_.random.chance(kHalf / 2) && !checker_.violation()) {
    // The VM ends, and lets the snapshot go.
    machine_->release();
    ending_ = true;
    go_on();
    machine_->finish();
    while (beginning_) machine_->turn(kForever);
  }
  if (machine_->outstanding() == 0 && !beginning_ && present_ != nullptr &&
      !present_->is_broken()) {
    bool recorded = false;
    CowState last{.condition = CowCondition::kClean};
    last.base.size_bytes = disk_->size_bytes();
    present_->record(last, [&](const Result<>&) { recorded = true; });
    while (!recorded) machine_->turn(kForever);
  }
  result_.run.faults += machine_->engine().faults();
  machine_->lose_power();
  ++result_.run.crashes;
  // What is under way fails, and nobody waits for a hold any more.
  go_on();
  while (beginning_) machine_->turn(kForever);
  machine_.reset();
  ending_ = false;
  present_ = nullptr;
  has_writer_ = false;
  for (KeptSnapshot& snapshot : cow_.snapshots()) snapshot.device.reset();
  removed_.clear();
}

// --- What happens ---

void CowRun::act() {
  Machine& machine = *machine_;
  if (draws_.random.chance(kHalf / 12)) disturb();
  if (draws_.random.chance(kHalf / 4)) machine.retry();
  if (unmarked_ && draws_.random.chance(kHalf / 4)) go_on();
  for (uint32_t requests = draws_.random.below(4); requests > 0; --requests) {
    if (machine.driver(0).has_room()) draws_.ask(machine.driver(0), plan_);
  }
  machine.driver(0).publish();
  const int64_t now_ns = machine.engine().now_ns();
  machine.turn(draws_.one_of<int64_t>({kNoWait, now_ns + 500, kForever, kForever}));
}

void CowRun::disturb() {
  switch (draws_.random.below(6)) {
    case 0:
    case 1:
      return take();
    case 2:
      if (!reading_ && !cow_.snapshots().empty()) {
        read(draws_.random.below(static_cast<uint32_t>(cow_.snapshots().size())), true);
      }
      return;
    case 3:
      if (!reading_ && !cow_.snapshots().empty()) {
        const auto count = static_cast<uint32_t>(cow_.snapshots().size());
        cow_.snapshots()[draws_.random.below(count)].deleted = true;
      }
      return;
    case 4:
      if (!reading_) merge();
      return;
    default:
      if (trouble_ != Trouble::kPaths) return;
      if (machine_->engine().path_lost()) return machine_->engine().find_path();
      machine_->engine().lose_path();
      ++result_.run.path_losses;
      return;
  }
}

KeptSnapshot CowRun::make_snapshot() {
  const bool bounded = draws_.random.chance(kHalf / 4);
  const uint64_t number = ++result_.taken;
  KeptSnapshot made;
  made.header = {.uuid = fmt::format("3f2504e0-4f89-41d3-9a0c-{:012x}", number),
                 .disk = "disk",
                 .base_bytes = disk_->size_bytes(),
                 .grain_bytes = kGrainBytes};
  if (bounded) made.header.limit_bytes = uint64_t{kGrainBytes} * (1 + draws_.random.below(8));
  SimDevice::Config medium;
  // At least the disk's: the checker compares blocks of the disk.
  medium.block_size = std::max(plan_.medium.block_size, draws_.one_of<uint32_t>({512, 4096}));
  medium.blocks = static_cast<uint32_t>(cow_file_bytes(made.header) / medium.block_size);
  medium.cache_blocks = draws_.one_of<uint32_t>({8, 64, 512});
  made.overlay = std::make_unique<SimDevice>(medium);
  SimCowFile file(*made.overlay);
  const Snapshots& kept = cow_.snapshots();
  const bool leans = !kept.empty();
  ENSURE(format_cow_overlay(file, made.header, leans ? kept.back().header.uuid : "").ok());
  return made;
}

std::unique_ptr<BlockDevice> CowRun::open_overlay(KeptSnapshot& snapshot) {
  SimDevice& overlay = *snapshot.overlay;
  FileFacts facts;
  facts.shared_flush_depth = draws_.one_of<uint32_t>({0, 0, 4});
  facts.info.size_bytes = overlay.size_bytes();
  facts.info.logical_block_size = overlay.block_size();
  facts.info.physical_block_size = 4096;
  facts.info.memory_alignment = 512;
  facts.info.volatile_cache = true;
  UniqueFd fd = machine_->engine().attach(overlay);
  snapshot.device = machine_->engine().devices() - 1;
  IoThread& thread = machine_->disk(0).thread();
  auto file = std::make_unique<FileDevice>(
      FileDevice::Config{.fd = std::move(fd), .label = "overlay"}, facts, thread);
  if (config_.bug == CowBug::kNone) return file;
  return std::make_unique<PlantedOverlay>(config_.bug, cow_data_at(snapshot.header),
                                          std::move(file), thread);
}

CowDevice::Config CowRun::device_config() {
  return {.broken = [this](const CowBreak& why) { broken(why); },
          .unreadable_breaks = plan_.on_error == ErrorPolicy::kReport};
}

void CowRun::take() {
  drop_broken();
  if (beginning_ || unmarked_ || cow_.snapshots().size() >= kMostSnapshots) return;
  if (present_ != nullptr && present_->is_broken() && !cow_.snapshots().empty()) return;
  beginning_ = make_snapshot();
  const int64_t now_ns = machine_->engine().now_ns();
  machine_->disk(0).hold(draws_.random.chance(kHalf) ? kForever : now_ns + 5000,
                         [this](const Result<>& done) { drained(done.ok()); });
}

void CowRun::drained(bool in_time) {
  if (!in_time || !machine_->engine().powered()) {
    if (in_time) machine_->disk(0).release();
    return beginning_.reset();
  }
  CowBegin begin;
  begin.overlay = open_overlay(*beginning_);
  SimCowFile file(*beginning_->overlay);
  begin.content = load_cow_overlay(file).value();
  begin.config = device_config();
  begin.present = present_;
  begin_cow(machine_->disk(0), std::move(begin),
            [this](Result<CowBegun> done) { begun(std::move(done)); });
}

void CowRun::begun(Result<CowBegun> result) {
  if (result.ok()) {
    present_ = result->device;
    has_writer_ = true;
    const BlockModel model = checker_.flushed_model(0);
    for (uint32_t block = 0; block < disk_->blocks(); ++block) {
      beginning_->content.push_back(model.survivors(block));
    }
    if (!cow_.snapshots().empty()) cow_.snapshots().back().device.reset();
    cow_.snapshots().push_back(std::move(*beginning_));
  } else {
    removed_.push_back(std::move(beginning_->overlay));
  }
  beginning_.reset();
  machine_->disk(0).release();
}

// As the process of a VM does: what has no mark is written down elsewhere, and disowned.
void CowRun::broken(const CowBreak& why) {
  if (machine_ == nullptr || !machine_->engine().powered()) return present_->go_on();
  ++result_.broken;
  if (why.marked) return;
  ++result_.unmarked;
  for (KeptSnapshot& snapshot : cow_.snapshots()) snapshot.given_up = true;
  has_writer_ = false;
  unmarked_ = true;
  if (ending_) go_on();
}

void CowRun::go_on() {
  if (std::exchange(unmarked_, false)) present_->go_on();
}

// --- What is done with snapshots ---

void CowRun::remove(size_t index) {
  Snapshots& kept = cow_.snapshots();
  removed_.push_back(std::move(kept[index].overlay));
  kept.erase(kept.begin() + static_cast<ptrdiff_t>(index));
}

// Snapshots that are broken, with those that lean on them; a device that works on the newest of
// them goes on without.
void CowRun::drop_broken() {
  if (reading_) return;
  Snapshots& kept = cow_.snapshots();
  for (size_t i = kept.size(); i-- > 0;) {
    SimCowFile file(*kept[i].overlay);
    const CowOverlay overlay = load_cow_overlay(file).value();
    const bool lost = kept[i].given_up || overlay.state.condition == CowCondition::kBroken;
    if (!lost) continue;
    const bool busy = i + 1 == kept.size() && machine_ && present_ != nullptr && unmarked_;
    if (busy) return;
    for (size_t j = i + 1; j-- > 0;) remove(j);
    if (!kept.empty()) {
      SimCowFile oldest(*kept[0].overlay);
      ENSURE(relink_cow_overlay(oldest, "").ok());
    }
    return;
  }
}

// What is deleted goes into the next older one, in as many tries as it takes.
void CowRun::merge() {
  drop_broken();
  Snapshots& kept = cow_.snapshots();
  for (size_t i = 0; i + 1 < kept.size(); ++i) {
    if (!kept[i].deleted) continue;
    SimCowFile newer(*kept[i + 1].overlay);
    if (i > 0) {
      SimCowFile from(*kept[i].overlay);
      SimCowFile into(*kept[i - 1].overlay, {.most_writes = draws_.random.below(20)});
      if (!merge_cow_overlay(from, into).ok()) return;
    }
    ENSURE(relink_cow_overlay(newer, i == 0 ? "" : kept[i - 1].header.uuid).ok());
    remove(i);
    ++result_.merged;
    return;
  }
}

std::unique_ptr<CowFile> CowRun::overlay_file(KeptSnapshot& snapshot, bool alive) {
  SimCowFile::Config config;
  const std::string uuid = snapshot.header.uuid;
  config.writer = [this, uuid] {
    // Forgotten, the one before stays open.
    if (config_.bug == CowBug::kNotSealed) return has_writer_;
    return has_writer_ && cow_.snapshots().back().header.uuid == uuid;
  };
  if (alive) {
    config.between = [this] {
      if (draws_.random.chance(kHalf / 16)) act();
    };
  }
  auto file = std::make_unique<SimCowFile>(*snapshot.overlay, std::move(config));
  if (config_.bug != CowBug::kReaderLooksOnce) return file;
  return std::make_unique<RememberingFile>(std::move(file), kCowTableAt,
                                           cow_data_at(snapshot.header));
}

std::unique_ptr<CowReader> CowRun::open_reader(size_t index, bool alive) {
  CowReader::Config config;
  SimCowFile::Config base;
  if (alive) {
    base.between = [this] {
      if (draws_.random.chance(kHalf)) act();
    };
  }
  config.base = std::make_unique<SimCowFile>(*disk_, std::move(base));
  Snapshots& kept = cow_.snapshots();
  for (size_t i = index; i < kept.size(); ++i) {
    config.overlays.push_back(overlay_file(kept[i], alive));
  }
  config.newer = [this, alive](const std::string& uuid) -> Result<std::unique_ptr<CowFile>> {
    Snapshots& now = cow_.snapshots();
    for (size_t i = 0; i + 1 < now.size(); ++i) {
      if (now[i].header.uuid == uuid) return overlay_file(now[i + 1], alive);
    }
    if (beginning_) return failed("one is being made");
    return std::unique_ptr<CowFile>();
  };
  Result<std::unique_ptr<CowReader>> reader = CowReader::open(std::move(config));
  return reader.ok() ? std::move(reader).value() : nullptr;
}

// A reader that ends with an error has said so; one that does not must be right, unless the
// snapshot was not to be read.
void CowRun::read(size_t index, bool alive) {
  const std::string uuid = cow_.snapshots()[index].header.uuid;
  if (cow_.snapshots()[index].deleted || cow_.snapshots()[index].given_up) return;
  reading_ = true;
  const std::unique_ptr<CowReader> reader = open_reader(index, alive);
  const uint64_t piece = uint64_t{1 + draws_.random.below(4)} * kGrainBytes;
  bool whole = reader != nullptr;
  for (uint64_t at = 0; whole && at < disk_->size_bytes(); at += piece) {
    std::vector<std::byte> bytes(std::min(piece, disk_->size_bytes() - at));
    whole = reader->read(at, bytes).ok();
    const auto& kept = cow_.snapshots();
    const auto snapshot = std::find_if(
        kept.begin(), kept.end(), [&](const KeptSnapshot& one) { return one.header.uuid == uuid; });
    if (whole) {
      cow_.check_read(*snapshot, static_cast<uint32_t>(at / disk_->block_size()), bytes);
    }
  }
  reading_ = false;
  if (whole) ++result_.read;
}

// After the end of a life.
void CowRun::read_all() {
  drop_broken();
  removed_.clear();
  for (size_t i = 0; i < cow_.snapshots().size() && !checker_.violation(); ++i) {
    if (cow_.snapshots()[i].deleted) continue;
    const uint64_t before = result_.read;
    read(i, false);
    if (result_.read == before) checker_.violate("I9", 0, "a whole snapshot cannot be read");
  }
}

}  // namespace

CowRunResult run_cow(const CowRunConfig& config, std::vector<std::unique_ptr<FakeGuest>>& guests) {
  return CowRun(config, guests).run();
}

}  // namespace plumb::simulation
