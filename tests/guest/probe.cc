// The probe guest: drives the first virtio-blk or virtio-scsi disk from user mode (CPL 3) and
// reports on the serial port. The kernel command line says what to do:
//
//   hello            print and power off
//   test             write, read back, verify; sizes from 512 B to 64 KiB; flush; bad requests
//   read | write     random I/O: bs= qd= count= (bytes, depth, requests); between BEGIN and END;
//                    batch=: the doorbell is rung for that many requests together
//   stay             … and do not power off afterwards
//   fault            triple fault
//   spin             loop for ever
//   eject            let go at once of each PCI slot that is asked for, for ever
//   flood            print for ever
//
// Every run that succeeds ends with "PROBE OK".
#include <stddef.h>
#include <stdint.h>

#include "tests/guest/disk_driver.h"
#include "tests/guest/machine.h"

// The compiler may call these even in a freestanding program.
extern "C" void* memcpy(void* to, const void* from, size_t length) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
  return to;
}
extern "C" void* memset(void* to, int value, size_t length) {
  void* at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(value) : "memory");
  return to;
}

namespace {

struct StartInfo {  // hvm_start_info, version 1
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t modules;
  uint64_t module_list;
  uint64_t command_line;
};

constexpr uint32_t kSectorBytes = 512;
constexpr uint32_t kMaxRequestBytes = 64 * 1024;

alignas(4096) uint8_t g_buffers[kMaxDepth][kMaxRequestBytes];

struct Random {
  uint64_t state;
  uint64_t next() {  // xorshift64*
    state ^= state >> 12U;
    state ^= state << 25U;
    state ^= state >> 27U;
    return state * 0x2545f4914f6cdd1dULL;
  }
};

// The word that belongs at byte `offset` of the disk in generation `generation`: a block that is
// lost, stale or elsewhere does not match.
uint64_t pattern(uint64_t offset, uint64_t generation) {
  return (offset / 8 + 1) * 0x9e3779b97f4a7c15ULL ^ generation << 56U;
}

void fill(uint8_t* buffer, uint64_t offset, uint32_t length, uint64_t generation) {
  auto* words = reinterpret_cast<uint64_t*>(buffer);
  for (uint32_t i = 0; i < length / 8; ++i) words[i] = pattern(offset + i * 8ULL, generation);
}

bool matches(const uint8_t* buffer, uint64_t offset, uint32_t length, uint64_t generation) {
  const auto* words = reinterpret_cast<const uint64_t*>(buffer);
  for (uint32_t i = 0; i < length / 8; ++i) {
    if (words[i] != pattern(offset + i * 8ULL, generation)) return false;
  }
  return true;
}

void report(const char* what, uint64_t number) {
  print(what);
  print(" ");
  print_number(number);
  print("\n");
}

void need(RequestStatus status, RequestStatus wanted, const char* what) {
  if (status != wanted) fail(what);
}

// Writes the first 8 MiB in pieces of changing size and segments, reads it back in others.
void test_sizes(DiskDriver& disk, uint64_t generation) {
  constexpr uint64_t kSpan = 8ULL << 20U;
  uint8_t* buffer = g_buffers[0];
  const uint32_t writes[] = {512, 4096, 1024, 65536, 1536, 32768, 2048, 8192};
  const uint32_t reads[] = {65536, 512, 3072, 16384, 4096, 1024};
  unsigned turn = 0;
  for (uint64_t at = 0; at < kSpan; ++turn) {
    uint32_t length = writes[turn % 8];
    if (at + length > kSpan) length = static_cast<uint32_t>(kSpan - at);
    fill(buffer, at, length, generation);
    need(disk.run(kOut, at / kSectorBytes, buffer, length, turn % 2 + 1), kOk, "a write");
    at += length;
  }
  for (uint64_t at = 0; at < kSpan; ++turn) {
    uint32_t length = reads[turn % 6];
    if (at + length > kSpan) length = static_cast<uint32_t>(kSpan - at);
    memset(buffer, 0, length);
    need(disk.run(kIn, at / kSectorBytes, buffer, length, turn % 2 + 1), kOk, "a read");
    if (!matches(buffer, at, length, generation)) fail("data read is not data written");
    at += length;
  }
}

// Many requests in flight: each slot writes its own block and reads it back, out of order.
void test_depth(DiskDriver& disk, uint64_t generation) {
  constexpr uint32_t kBlock = 4096;
  constexpr unsigned kRounds = 64;
  uint64_t offsets[kMaxDepth];
  for (unsigned round = 0; round < kRounds; ++round) {
    constexpr RequestType kBoth[] = {kOut, kIn};
    for (const RequestType type : kBoth) {
      for (unsigned slot = 0; slot < kMaxDepth; ++slot) {
        offsets[slot] = (static_cast<uint64_t>(slot) * kRounds + round) * kBlock;
        if (type == kOut) fill(g_buffers[slot], offsets[slot], kBlock, generation);
        if (type == kIn) memset(g_buffers[slot], 0, kBlock);
        disk.add(slot, type, offsets[slot] / kSectorBytes, g_buffers[slot], kBlock);
      }
      disk.kick();
      for (unsigned ended = 0; ended < kMaxDepth;) {
        const int slot = disk.poll();
        if (slot < 0) continue;
        ++ended;
        need(disk.status(static_cast<unsigned>(slot)), kOk, "a request of many");
      }
    }
    for (unsigned slot = 0; slot < kMaxDepth; ++slot) {
      if (!matches(g_buffers[slot], offsets[slot], kBlock, generation)) {
        fail("data read at depth is not data written");
      }
    }
  }
}

void test_odd_requests(DiskDriver& disk) {
  uint8_t* buffer = g_buffers[0];
  need(disk.run(kFlush, 0, nullptr, 0), kOk, "a flush");
  need(disk.run(kIn, disk.sectors(), buffer, 512), kIoError, "a read past the end");
  need(disk.run(kIn, disk.sectors() - 1, buffer, 1024), kIoError, "a read across the end");
  need(disk.run(kOut, ~0ULL, buffer, 512), kIoError, "a write at the last address");
  need(disk.run(kIn, 0, buffer, 512), kOk, "a read after the bad ones");
  if (disk.scsi()) return;
  need(disk.run(kGetId, 0, buffer, 20), kOk, "the serial number");
  buffer[20] = '\0';
  print("serial ");
  print(reinterpret_cast<const char*>(buffer));
  print("\n");
  need(disk.run(kIn, 0, buffer, 100), kIoError, "a read of 100 bytes");
  need(disk.run(static_cast<RequestType>(77), 0, buffer, 512), kUnsupported, "an unknown type");
  // QEMU calls a SCSI command an I/O error, plumb unsupported; what counts is that it is refused.
  if (disk.run(static_cast<RequestType>(2), 0, buffer, 512) == kOk) fail("a SCSI command");
  need(disk.run(kIn, 0, buffer, 512), kOk, "a read after the bad ones");
}

void test(DiskDriver& disk) {
  report("sectors", disk.sectors());
  report("write-through", disk.write_through() ? 1 : 0);
  for (uint64_t generation = 1; generation <= 2; ++generation) test_sizes(disk, generation);
  test_depth(disk, 3);
  test_odd_requests(disk);
}

// Random I/O of one kind at a fixed depth. The host takes the time between BEGIN and END.
void measure(DiskDriver& disk, RequestType type, const char* command_line) {
  const auto bytes = static_cast<uint32_t>(number_option(command_line, "bs=", 4096));
  const auto depth = static_cast<unsigned>(number_option(command_line, "qd=", 1));
  const uint64_t count = number_option(command_line, "count=", 10000);
  if (depth == 0 || depth > kMaxDepth || bytes == 0 || bytes > kMaxRequestBytes) fail("options");
  const uint64_t blocks = disk.sectors() * kSectorBytes / bytes;
  Random random{0x853c49e6748fea9bULL};
  const uint64_t batch = number_option(command_line, "batch=", 1);
  unsigned free_slots[kMaxDepth];
  unsigned free_count = 0;
  uint64_t added = 0;
  uint64_t ended = 0;
  const auto add_all = [&] {
    while (free_count > 0 && added < count) {
      const unsigned slot = free_slots[--free_count];
      const uint64_t offset = random.next() % blocks * bytes;
      *reinterpret_cast<uint64_t*>(g_buffers[slot]) = offset;
      disk.add(slot, type, offset / kSectorBytes, g_buffers[slot], bytes);
      ++added;
    }
    disk.kick();
  };
  report("BEGIN", count);
  for (; free_count < depth; ++free_count) free_slots[free_count] = free_count;
  add_all();
  while (ended < count) {
    const uint64_t before = ended;
    for (int slot = disk.poll(); slot >= 0; slot = disk.poll()) {
      need(disk.status(static_cast<unsigned>(slot)), kOk, "a measured request");
      ++ended;
      free_slots[free_count++] = static_cast<unsigned>(slot);
    }
    if (ended == before) pause_cpu();
    const bool last = count - added <= free_count;
    if (free_count >= batch || (last && free_count > 0)) add_all();
  }
  report("END", ended);
}

// The registers of plumb's PCI hotplug (vmm/acpi/pci_hotplug.h), which has one bit for a slot.
[[noreturn]] void eject_what_is_asked_for() {
  constexpr uint16_t kAsked = 0x684;
  constexpr uint16_t kEject = 0x688;
  print("ejecting\n");
  while (true) {
    if (const uint32_t slots = in32(kAsked); slots != 0) out32(kEject, slots);
  }
}

void misbehave(const char* command_line) {
  if (has_word(command_line, "spin")) {
    print("spinning\n");
    while (true) pause_cpu();
  }
  if (has_word(command_line, "eject")) eject_what_is_asked_for();
  while (has_word(command_line, "flood")) print("flood flood flood flood flood flood flood\n");
  if (has_word(command_line, "fault")) {
    print("faulting\n");
    // No interrupt table: the first exception is the third.
    asm volatile("ud2");
  }
}

}  // namespace

extern "C" [[noreturn]] void probe_main(const StartInfo* info) {
  const auto* command_line = reinterpret_cast<const char*>(info->command_line);
  print("ROBE\n");  // the P was the first thing of all
  misbehave(command_line);
  if (!has_word(command_line, "hello")) {
    static DiskDriver disk;
    if (!disk.open()) fail("there is no disk");
    if (has_word(command_line, "test")) test(disk);
    if (has_word(command_line, "read")) measure(disk, kIn, command_line);
    if (has_word(command_line, "write")) measure(disk, kOut, command_line);
  }
  print("PROBE OK\n");
  while (has_word(command_line, "stay")) pause_cpu();
  power_off();
}
