// What every ArrayProvider must do, whatever it stands on; each rule of array_provider.h is a
// function here. Used by one TEST_CASE per provider:
//   run_array_suite(fixture);
// The content of the fixture's disks is overwritten. Every rule leaves the array as it found it.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned_memory.h"
#include "base/unique_fd.h"
#include "snapshot/arrays/array_provider.h"
#include "tests/child_process.h"

namespace plumb::conformance {

struct TestDisk {
  DiskMedium medium;
  std::string path;  // where the test writes as a guest does
};

class ArrayFixture {
 public:
  virtual ~ArrayFixture() = default;
  // The provider anew, as the next process opens it.
  virtual std::unique_ptr<ArrayProvider> open() = 0;
  // Three disks of one size, a multiple of 1 MiB.
  virtual const std::vector<TestDisk>& disks() = 0;
  // Whether unmap() and remove() see that somebody has a mapped volume open.
  virtual bool sees_use() const { return false; }
};

// ---- content ------------------------------------------------------------------------------------

inline constexpr size_t kPieceBytes = 1U << 20U;

// A piece of a disk, different in every word for each seed and place.
inline void make_piece(uint64_t* words, uint64_t seed, uint64_t offset) {
  uint64_t state = seed * 0x9e3779b97f4a7c15U + offset;
  for (size_t i = 0; i < kPieceBytes / sizeof(uint64_t); ++i) {
    state += 0x9e3779b97f4a7c15U;
    words[i] = (state ^ (state >> 29U)) * 0xbf58476d1ce4e5b9U;
  }
}

// Direct, because the same content is looked at through several devices.
inline UniqueFd open_disk(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC));
  INFO(path << ": " << std::strerror(errno));
  REQUIRE(fd.valid());
  return fd;
}

inline void fill(const std::string& path, uint64_t seed) {
  const UniqueFd fd = open_disk(path, O_RDWR);
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  REQUIRE(size > 0);
  const AlignedMemory piece = aligned_memory(kPieceBytes);
  for (off_t at = 0; at < size; at += kPieceBytes) {
    make_piece(reinterpret_cast<uint64_t*>(piece.get()), seed, static_cast<uint64_t>(at));
    REQUIRE(::pwrite(fd.get(), piece.get(), kPieceBytes, at) == ssize_t{kPieceBytes});
  }
  REQUIRE(::fsync(fd.get()) == 0);
}

// Whether the first `size_bytes` are those that fill() writes; seed 0: zeroes.
inline bool holds(const std::string& path, uint64_t size_bytes, uint64_t seed) {
  const UniqueFd fd = open_disk(path, O_RDONLY);
  const AlignedMemory want = aligned_memory(kPieceBytes);
  const AlignedMemory seen = aligned_memory(kPieceBytes);
  std::memset(want.get(), 0, kPieceBytes);
  for (uint64_t at = 0; at < size_bytes; at += kPieceBytes) {
    if (seed != 0) make_piece(reinterpret_cast<uint64_t*>(want.get()), seed, at);
    const ssize_t got = ::pread(fd.get(), seen.get(), kPieceBytes, static_cast<off_t>(at));
    if (got != ssize_t{kPieceBytes} || std::memcmp(want.get(), seen.get(), kPieceBytes) != 0) {
      UNSCOPED_INFO(path << " differs in the piece at " << at << ", read " << got);
      return false;
    }
  }
  return true;
}

// ---- what the rules use -------------------------------------------------------------------------

template <typename T>
T good(Result<T> result) {
  INFO((result.ok() ? std::string() : result.error().message));
  REQUIRE(result.ok());
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

// An error with a sentence that names the array.
template <typename T>
void refused(Result<T> result, const ArrayProvider& array) {
  REQUIRE_FALSE(result.ok());
  CHECK_THAT(result.error().message, Catch::Contains(array.name()));
}

inline ArrayVolume volume_of(ArrayProvider& array, const TestDisk& disk) {
  const auto found = good(array.find(disk.medium));
  REQUIRE(found.has_value());
  return *found;
}

using Requests = std::vector<ArrayProvider::SnapshotRequest>;

inline std::vector<ArraySnapshot> snapshots_of(ArrayProvider& array, const Requests& requests) {
  const auto prepared = good(array.prepare(requests));
  good(prepared->take());
  return good(prepared->finish());
}

inline ArraySnapshot snapshot_of(ArrayProvider& array, const TestDisk& disk,
                                 const std::string& name) {
  const auto made = snapshots_of(array, {{volume_of(array, disk), name}});
  REQUIRE(made.size() == 1);
  return made[0];
}

template <typename T>
std::vector<std::string> names_of(const std::vector<T>& all) {
  std::vector<std::string> names;
  for (const T& one : all) names.push_back(one.name);
  std::ranges::sort(names);
  return names;
}

inline std::vector<std::string> snapshot_names(ArrayProvider& array, const std::string& prefix) {
  return names_of(good(array.list_snapshots(prefix)));
}
inline std::vector<std::string> volume_names(ArrayProvider& array, const std::string& prefix) {
  return names_of(good(array.list_volumes(prefix)));
}

using Names = std::vector<std::string>;

// ---- the rules ----------------------------------------------------------------------------------

inline void disks_are_found_and_others_are_not(ArrayFixture& fixture) {
  const auto array = fixture.open();
  CHECK_FALSE(array->name().empty());
  const TestDisk& disk = fixture.disks()[0];
  const ArrayVolume volume = volume_of(*array, disk);
  CHECK_FALSE(volume.id.empty());
  CHECK(volume.size_bytes == disk.medium.size_bytes);
  CHECK(volume_of(*fixture.open(), disk).id == volume.id);
  CHECK(volume_of(*array, fixture.disks()[1]).id != volume.id);
  CHECK_FALSE(good(array->find({.image = "/nowhere/else.img", .size_bytes = 4096})));
  CHECK_FALSE(
      good(array->find({.wwn = "naa.6001405ffffffffffffffffffffffff0", .device = "/dev/nowhere"})));
}

inline void a_snapshot_keeps_the_content_of_its_instant(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  fill(disk.path, 1);
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "suite-instant");
  CHECK(snapshot.name == "suite-instant");
  CHECK(snapshot.volume_id == volume_of(*array, disk).id);
  CHECK(snapshot.size_bytes == disk.medium.size_bytes);
  CHECK(snapshot.whole);
  fill(disk.path, 2);
  const MappedVolume mapped = good(array->map(snapshot.id));
  CHECK(holds(mapped.device, disk.medium.size_bytes, 1));
  CHECK(holds(disk.path, disk.medium.size_bytes, 2));
  good(array->remove(snapshot.id));
  CHECK(holds(disk.path, disk.medium.size_bytes, 2));
}

inline void several_volumes_are_taken_together_in_the_order_asked(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const auto& disks = fixture.disks();
  Requests requests;
  for (const size_t i : {2U, 0U, 1U}) {
    fill(disks[i].path, 10 + i);
    requests.push_back({volume_of(*array, disks[i]), "suite-group-" + std::to_string(9 - i)});
  }
  const auto made = snapshots_of(*array, requests);
  REQUIRE(made.size() == 3);
  for (size_t i = 0; i < made.size(); ++i) {
    CHECK(made[i].name == requests[i].name);
    CHECK(made[i].volume_id == requests[i].volume.id);
    REQUIRE(made[i].size_bytes == disks[i].medium.size_bytes);
    fill(disks[i].path, 20);
  }
  for (const auto& [at, seed] : {std::pair(0U, 12U), {1U, 10U}, {2U, 11U}}) {
    CHECK(holds(good(array->map(made[at].id)).device, made[at].size_bytes, seed));
    good(array->unmap(made[at].id));
    good(array->remove(made[at].id));
  }
}

inline void a_name_is_used_once(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const ArrayVolume first = volume_of(*array, fixture.disks()[0]);
  const ArrayVolume second = volume_of(*array, fixture.disks()[1]);
  refused(array->prepare(Requests{{first, "suite-twice"}, {second, "suite-twice"}}), *array);
  refused(array->prepare(Requests{}), *array);
  refused(array->prepare(Requests{{first, "suite-one"}, {first, "suite-other"}}), *array);
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "suite-taken");
  refused(array->prepare(Requests{{first, "suite-free"}, {second, "suite-taken"}}), *array);
  refused(fixture.open()->prepare(Requests{{first, "suite-taken"}}), *array);
  CHECK(snapshot_names(*array, "suite-") == Names{"suite-taken"});
  refused(array->clone(snapshot.id, "suite-taken"), *array);
  const ArrayVolume clone = good(array->clone(snapshot.id, "suite-clone"));
  refused(array->clone(snapshot.id, "suite-clone"), *array);
  refused(array->prepare(Requests{{first, "suite-clone"}}), *array);
  CHECK(volume_names(*array, "suite-") == Names{"suite-clone"});
  good(array->remove(clone.id));
  good(array->remove(snapshot.id));
}

inline void a_take_is_whole_or_leaves_nothing(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const auto other = fixture.open();
  const ArrayVolume first = volume_of(*array, fixture.disks()[0]);
  const ArrayVolume second = volume_of(*array, fixture.disks()[1]);
  auto prepared = good(array->prepare(Requests{{first, "suite-all-1"}, {second, "suite-all-2"}}));
  // Somebody else wants a name of it in between: one of the two fails, and takes nothing.
  auto rival = other->prepare(Requests{{first, "suite-all-2"}, {second, "suite-all-3"}});
  const bool rival_first = rival.ok() && rival.value()->take().ok();
  if (rival_first) good(rival.value()->finish());
  if (rival.ok()) std::move(rival).value().reset();
  const bool taken = prepared->take().ok();
  if (taken) good(prepared->finish());
  prepared.reset();
  CHECK(taken != rival_first);
  CHECK(snapshot_names(*array, "suite-") ==
        (taken ? Names{"suite-all-1", "suite-all-2"} : Names{"suite-all-2", "suite-all-3"}));
  for (const auto& snapshot : good(array->list_snapshots("suite-"))) {
    CHECK(snapshot.whole);
    good(array->remove(snapshot.id));
  }
}

inline void what_is_dropped_leaves_nothing(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const Requests requests = {{volume_of(*array, fixture.disks()[0]), "suite-drop-1"},
                             {volume_of(*array, fixture.disks()[1]), "suite-drop-2"}};
  good(array->prepare(requests)).reset();
  CHECK(snapshot_names(*array, "") == Names{});
  {
    const auto prepared = good(array->prepare(requests));
    good(prepared->take());
  }
  CHECK(snapshot_names(*array, "") == Names{});
  for (const auto& snapshot : snapshots_of(*array, requests)) good(array->remove(snapshot.id));
}

// The process dies after prepare(), and after take(): the next one finds by its names whatever is
// there, and can do away with it.
inline void what_a_crash_leaves_is_found_by_name(ArrayFixture& fixture) {
  for (const bool take : {false, true}) {
    CAPTURE(take);
    const std::string said = in_child([&fixture, take] {
      const auto array = fixture.open();
      const auto volume = array->find(fixture.disks()[0].medium);
      if (!volume.ok() || !volume.value()) return std::string("not found");
      auto prepared = array->prepare(Requests{{*volume.value(), "suite-crash"}});
      if (!prepared) return prepared.error().message;
      if (take) {
        if (const auto taken = prepared.value()->take(); !taken) return std::string("not taken");
      }
      // No destructor runs, as with SIGKILL.
      return std::move(prepared).value().release() != nullptr ? std::string("crashed") : "";
    });
    REQUIRE(said == "crashed");
    const auto array = fixture.open();
    const auto left = good(array->list_snapshots("suite-"));
    REQUIRE(left.size() <= 1);
    for (const auto& snapshot : left) {
      CHECK(snapshot.name == "suite-crash");
      if (!snapshot.whole) {
        refused(array->map(snapshot.id), *array);
        refused(array->clone(snapshot.id, "suite-of-half"), *array);
        refused(array->restore(snapshot.id, snapshot.volume_id), *array);
      }
      good(array->remove(snapshot.id));
    }
    CHECK(snapshot_names(*array, "") == Names{});
    good(array->remove(snapshot_of(*array, fixture.disks()[0], "suite-crash").id));
  }
}

inline void lists_are_by_prefix_and_outlive_the_object(ArrayFixture& fixture) {
  auto array = fixture.open();
  const ArraySnapshot one = snapshot_of(*array, fixture.disks()[0], "suite-a-1");
  const ArraySnapshot two = snapshot_of(*array, fixture.disks()[1], "suite-b");
  const ArrayVolume clone = good(array->clone(one.id, "suite-a-2"));
  array = fixture.open();
  CHECK(snapshot_names(*array, "") == Names{"suite-a-1", "suite-b"});
  CHECK(snapshot_names(*array, "suite-a") == Names{"suite-a-1"});
  CHECK(snapshot_names(*array, "other") == Names{});
  CHECK(volume_names(*array, "suite-") == Names{"suite-a-2"});
  CHECK(volume_names(*array, "suite-b") == Names{});
  const auto listed = good(array->list_snapshots("suite-b"));
  REQUIRE(listed.size() == 1);
  CHECK(listed[0].id == two.id);
  CHECK(listed[0].volume_id == two.volume_id);
  CHECK(listed[0].size_bytes == two.size_bytes);
  CHECK(listed[0].whole);
  const auto volumes = good(array->list_volumes(""));
  REQUIRE(volumes.size() == 1);
  CHECK(volumes[0].id == clone.id);
  CHECK(volumes[0].size_bytes == fixture.disks()[0].medium.size_bytes);
  good(array->remove(clone.id));
  good(array->remove(one.id));
  good(array->remove(two.id));
  CHECK(snapshot_names(*array, "") == Names{});
}

inline void doing_it_twice_is_fine(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "suite-again");
  good(array->unmap(snapshot.id));
  const MappedVolume mapped = good(array->map(snapshot.id));
  CHECK(good(fixture.open()->map(snapshot.id)).device == mapped.device);
  good(array->unmap(snapshot.id));
  good(array->unmap(snapshot.id));
  good(array->map(snapshot.id));
  good(array->remove(snapshot.id));
  good(array->remove(snapshot.id));
  good(array->unmap(snapshot.id));
  refused(array->map(snapshot.id), *array);
  refused(array->clone(snapshot.id, "suite-of-nothing"), *array);
  refused(array->restore(snapshot.id, volume_of(*array, fixture.disks()[0]).id), *array);
  CHECK(volume_names(*array, "") == Names{});
}

inline void clones_stand_alone(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  const uint64_t size = disk.medium.size_bytes;
  fill(disk.path, 30);
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "suite-origin");
  const ArrayVolume first = good(array->clone(snapshot.id, "suite-clone-1"));
  const ArrayVolume second = good(array->clone(snapshot.id, "suite-clone-2"));
  CHECK(first.size_bytes == size);
  CHECK(first.name == "suite-clone-1");
  const std::string first_path = good(array->map(first.id)).device;
  fill(first_path, 31);
  fill(disk.path, 32);
  CHECK(holds(good(array->map(snapshot.id)).device, size, 30));
  CHECK(holds(good(array->map(second.id)).device, size, 30));
  // One clone goes before its snapshot, the other after it.
  good(array->remove(second.id));
  CHECK(holds(good(array->map(snapshot.id)).device, size, 30));
  good(array->remove(snapshot.id));
  CHECK(holds(first_path, size, 31));
  CHECK(holds(disk.path, size, 32));
  // A clone is a volume like others.
  const auto again = snapshots_of(*array, {{first, "suite-of-clone"}});
  CHECK(again[0].size_bytes == size);
  fill(first_path, 33);
  CHECK(holds(good(array->map(again[0].id)).device, size, 31));
  good(array->remove(first.id));
  CHECK(holds(good(array->map(again[0].id)).device, size, 31));
  good(array->remove(again[0].id));
  CHECK(holds(disk.path, size, 32));
}

inline void a_volume_is_restored_and_the_snapshot_stays(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  const uint64_t size = disk.medium.size_bytes;
  fill(disk.path, 40);
  const ArraySnapshot snapshot = snapshot_of(*array, disk, "suite-restore");
  const std::string id = volume_of(*array, disk).id;
  for (const uint64_t other : {41U, 42U}) {
    fill(disk.path, other);
    good(array->restore(snapshot.id, id));
    CHECK(holds(disk.path, size, 40));
    CHECK(volume_of(*array, disk).id == id);
  }
  fill(disk.path, 43);
  CHECK(holds(good(array->map(snapshot.id)).device, size, 40));
  fill(fixture.disks()[1].path, 44);
  refused(array->restore(snapshot.id, volume_of(*array, fixture.disks()[1]).id), *array);
  CHECK(holds(fixture.disks()[1].path, size, 44));
  good(array->remove(snapshot.id));
  CHECK(holds(disk.path, size, 43));
}

inline void a_new_volume_is_zeroes(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const uint64_t size = fixture.disks()[0].medium.size_bytes;
  if (!array->abilities().provisions) {
    refused(array->create("suite-new", size), *array);
    return;
  }
  refused(array->create("suite-new", 0), *array);
  const ArrayVolume volume = good(array->create("suite-new", size));
  CHECK(volume.size_bytes == size);
  refused(array->create("suite-new", size), *array);
  const std::string path = good(array->map(volume.id)).device;
  CHECK(holds(path, size, 0));
  fill(path, 50);
  const ArraySnapshot snapshot = snapshots_of(*array, {{volume, "suite-of-new"}})[0];
  fill(path, 51);
  good(array->unmap(volume.id));
  good(array->restore(snapshot.id, volume.id));
  CHECK(holds(good(fixture.open()->map(volume.id)).device, size, 50));
  CHECK(volume_names(*array, "") == Names{"suite-new"});
  good(array->remove(volume.id));
  good(array->remove(snapshot.id));
}

inline void what_was_not_made_here_is_not_removed(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const TestDisk& disk = fixture.disks()[0];
  fill(disk.path, 60);
  refused(array->remove(volume_of(*array, disk).id), *array);
  CHECK(holds(disk.path, disk.medium.size_bytes, 60));
  CHECK(volume_names(*array, "") == Names{});
}

inline void bad_names_are_refused(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const ArrayVolume volume = volume_of(*array, fixture.disks()[0]);
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "suite-good");
  for (const std::string& name :
       {std::string(), std::string("Upper"), std::string("a/b"), std::string("../x"),
        std::string("."), std::string("-x"), std::string("a b"), std::string("a\nb"),
        std::string("a;b"), std::string("\xc3\xbc"), std::string(65, 'a')}) {
    CAPTURE(name);
    refused(array->prepare(Requests{{volume, name}}), *array);
    refused(array->clone(snapshot.id, name), *array);
    if (array->abilities().provisions) refused(array->create(name, volume.size_bytes), *array);
  }
  good(array->remove(snapshot_of(*array, fixture.disks()[0], std::string(64, 'a')).id));
  good(array->remove(snapshot.id));
}

inline void capacity_and_health_are_told(ArrayFixture& fixture) {
  const auto array = fixture.open();
  const ArrayCapacity capacity = good(array->capacity());
  CHECK(capacity.total_bytes > 0);
  CHECK(capacity.free_bytes <= capacity.total_bytes);
  good(array->health());
}

inline void what_is_in_use_is_not_taken_away(ArrayFixture& fixture) {
  if (!fixture.sees_use()) return;
  const auto array = fixture.open();
  const ArraySnapshot snapshot = snapshot_of(*array, fixture.disks()[0], "suite-used");
  {
    const UniqueFd user = open_disk(good(array->map(snapshot.id)).device, O_RDONLY);
    refused(array->unmap(snapshot.id), *array);
    refused(array->remove(snapshot.id), *array);
  }
  CHECK(snapshot_names(*array, "") == Names{"suite-used"});
  good(array->remove(snapshot.id));
}

struct ArrayRule {
  const char* text;
  void (*holds)(ArrayFixture&);
};

inline constexpr ArrayRule kArrayRules[] = {
    {"disks are found and others are not", disks_are_found_and_others_are_not},
    {"a snapshot keeps the content of its instant", a_snapshot_keeps_the_content_of_its_instant},
    {"several volumes are taken together, in the order asked",
     several_volumes_are_taken_together_in_the_order_asked},
    {"a name is used once", a_name_is_used_once},
    {"a take is whole or leaves nothing", a_take_is_whole_or_leaves_nothing},
    {"what is dropped leaves nothing", what_is_dropped_leaves_nothing},
    {"what a crash leaves is found by name", what_a_crash_leaves_is_found_by_name},
    {"lists are by prefix and outlive the object", lists_are_by_prefix_and_outlive_the_object},
    {"doing it twice is fine", doing_it_twice_is_fine},
    {"clones stand alone", clones_stand_alone},
    {"a volume is restored and the snapshot stays", a_volume_is_restored_and_the_snapshot_stays},
    {"a new volume is zeroes", a_new_volume_is_zeroes},
    {"what was not made here is not removed", what_was_not_made_here_is_not_removed},
    {"bad names are refused", bad_names_are_refused},
    {"capacity and health are told", capacity_and_health_are_told},
    {"what is in use is not taken away", what_is_in_use_is_not_taken_away},
};

inline void run_array_suite(ArrayFixture& fixture) {
  for (const ArrayRule& rule : kArrayRules) {
    INFO("rule: " << rule.text);
    rule.holds(fixture);
    const auto array = fixture.open();
    CHECK(snapshot_names(*array, "") == Names{});
    CHECK(volume_names(*array, "") == Names{});
  }
}

}  // namespace plumb::conformance
