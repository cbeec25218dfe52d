#include "tests/guest/disk_driver.h"

#include "tests/guest/machine.h"

namespace {

constexpr uintptr_t kEcam = 0xe0000000;         // the same in plumb and in QEMU's microvm
constexpr uint32_t kFirstFreeBar = 0xc0000000;  // for machines whose firmware assigned none
constexpr uint32_t kVirtioBlkModern = 0x10421af4;
constexpr uint32_t kVirtioBlkTransitional = 0x10011af4;
constexpr uint32_t kVirtioScsiModern = 0x10481af4;
constexpr uint32_t kVirtioScsiTransitional = 0x10041af4;
constexpr uint16_t kScsiRequestQueue = 2;
constexpr uint8_t kCapVendor = 0x09;

constexpr uint16_t kQueueSize = 256;
constexpr unsigned kDescriptorsPerSlot = kQueueSize / kMaxDepth;

constexpr uint32_t kFeatureFlush = 1U << 9U;
constexpr uint32_t kFeatureConfigWce = 1U << 11U;
constexpr uint32_t kFeatureEventIdx = 1U << 29U;
constexpr uint32_t kFeatureVersion1High = 1U;

// virtio 1.2, 4.1.4.3
enum CommonConfig : uintptr_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kDeviceStatus = 0x14,
  kQueueSelect = 0x16,
  kQueueSizeField = 0x18,
  kQueueEnable = 0x1c,
  kQueueNotifyOff = 0x1e,
  kQueueDesc = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
};

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;  // 1 next, 2 device writes
  uint16_t next;
};
struct AvailableRing {
  uint16_t flags;
  uint16_t index;
  uint16_t ring[kQueueSize];
  uint16_t used_event;
};
struct UsedElement {
  uint32_t id;
  uint32_t length;
};
struct UsedRing {
  uint16_t flags;
  uint16_t index;
  UsedElement ring[kQueueSize];
  uint16_t avail_event;
};
struct RequestHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
// 5.6.6.1, with the sizes that CDB and sense data have after a reset.
struct [[gnu::packed]] ScsiRequest {
  uint8_t lun[8];
  uint64_t id;
  uint8_t task_attribute;
  uint8_t priority;
  uint8_t crn;
  uint8_t cdb[32];
};
struct [[gnu::packed]] ScsiResponse {
  uint32_t sense_length;
  uint32_t residual;
  uint16_t qualifier;
  uint8_t status;
  uint8_t response;
  uint8_t sense[96];
};

alignas(4096) Descriptor g_descriptors[kQueueSize];
alignas(4096) AvailableRing g_available;
alignas(4096) volatile UsedRing g_used;
alignas(64) RequestHeader g_headers[kMaxDepth];
alignas(64) volatile uint8_t g_status[kMaxDepth];
alignas(64) ScsiRequest g_scsi_requests[kMaxDepth];
alignas(64) ScsiResponse g_scsi_responses[kMaxDepth];

uintptr_t address_of(const volatile void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

void store_big_endian(uint8_t* to, unsigned bytes, uint64_t value) {
  for (unsigned i = bytes; i-- > 0; value >>= 8U) to[i] = static_cast<uint8_t>(value);
}

// READ(16), WRITE(16), SYNCHRONIZE CACHE(10), all of the medium.
void make_cdb(ScsiRequest& request, RequestType type, uint64_t sector, uint32_t length) {
  for (uint8_t& byte : request.cdb) byte = 0;
  request.cdb[0] = type == kIn ? 0x88 : type == kOut ? 0x8a : 0x35;
  if (type == kFlush) return;
  store_big_endian(&request.cdb[2], 8, sector);
  store_big_endian(&request.cdb[10], 4, length / 512);
}

}  // namespace

bool DiskDriver::open() {
  for (uintptr_t slot = 0; slot < 32; ++slot) {
    const uintptr_t function = kEcam + (slot << 15U);
    const uint32_t id = read_register<uint32_t>(function);
    scsi_ = id == kVirtioScsiModern || id == kVirtioScsiTransitional;
    if (!scsi_ && id != kVirtioBlkModern && id != kVirtioBlkTransitional) continue;
    assign_bars(function);
    find_registers(function);
    if (common_ == 0) fail("a virtio function without modern capabilities");
    negotiate();
    set_up_queue();
    if (scsi_) {
      read_capacity();
    } else {
      sectors_ = read_register<uint32_t>(device_) |
                 static_cast<uint64_t>(read_register<uint32_t>(device_ + 4)) << 32U;
    }
    return true;
  }
  return false;
}

// Gives an address to each memory BAR that has none, and enables memory and bus mastering.
void DiskDriver::assign_bars(uintptr_t function) {
  static uint32_t next = kFirstFreeBar;
  for (uintptr_t bar = 0x10; bar < 0x28; bar += 4) {
    const uint32_t value = read_register<uint32_t>(function + bar);
    if ((value & 1U) != 0) continue;  // ports
    const bool wide = (value & 6U) == 4;
    if ((value & ~0xfU) == 0) {
      write_register<uint32_t>(function + bar, 0xffffffff);
      const uint32_t size = ~(read_register<uint32_t>(function + bar) & ~0xfU) + 1;
      if (size != 0) {
        next = (next + size - 1) & ~(size - 1);
        write_register<uint32_t>(function + bar, next);
        if (wide) write_register<uint32_t>(function + bar + 4, 0);
        next += size;
      }
    }
    if (wide) bar += 4;
  }
  const uint16_t command = read_register<uint16_t>(function + 4);
  write_register<uint16_t>(function + 4, static_cast<uint16_t>(command | 6U));
}

void DiskDriver::find_registers(uintptr_t function) {
  for (uint8_t at = read_register<uint8_t>(function + 0x34); at != 0;
       at = read_register<uint8_t>(function + at + 1)) {
    if (read_register<uint8_t>(function + at) != kCapVendor) continue;
    const uint8_t type = read_register<uint8_t>(function + at + 3);
    const uint8_t bar = read_register<uint8_t>(function + at + 4);
    if (bar > 5) continue;
    const uintptr_t base = read_register<uint32_t>(function + 0x10 + bar * 4U) & ~0xfU;
    const uintptr_t where = base + read_register<uint32_t>(function + at + 8);
    if (type == 1) common_ = where;
    if (type == 2) {
      notify_ = where;
      notify_multiplier_ = read_register<uint32_t>(function + at + 16);
    }
    if (type == 4) device_ = where;
  }
}

void DiskDriver::negotiate() {
  write_register<uint8_t>(common_ + kDeviceStatus, 0);
  while (read_register<uint8_t>(common_ + kDeviceStatus) != 0) pause_cpu();
  write_register<uint8_t>(common_ + kDeviceStatus, 3);  // ACKNOWLEDGE, DRIVER
  write_register<uint32_t>(common_ + kDeviceFeatureSelect, 0);
  const uint32_t wanted = kFeatureEventIdx | (scsi_ ? 0 : kFeatureFlush | kFeatureConfigWce);
  const uint32_t features = read_register<uint32_t>(common_ + kDeviceFeature) & wanted;
  write_register<uint32_t>(common_ + kDriverFeatureSelect, 0);
  write_register<uint32_t>(common_ + kDriverFeature, features);
  write_register<uint32_t>(common_ + kDriverFeatureSelect, 1);
  write_register<uint32_t>(common_ + kDriverFeature, kFeatureVersion1High);
  write_register<uint8_t>(common_ + kDeviceStatus, 0xb);  // FEATURES_OK
  if ((read_register<uint8_t>(common_ + kDeviceStatus) & 8U) == 0) fail("features refused");
  event_index_ = (features & kFeatureEventIdx) != 0;
  write_through_ = (features & kFeatureConfigWce) != 0 && read_register<uint8_t>(device_ + 32) == 0;
}

void DiskDriver::set_up_queue() {
  const uint16_t queue = scsi_ ? kScsiRequestQueue : 0;
  write_register<uint16_t>(common_ + kQueueSelect, queue);
  if (read_register<uint16_t>(common_ + kQueueSizeField) < kQueueSize) fail("the queue is small");
  write_register<uint16_t>(common_ + kQueueSizeField, kQueueSize);
  write_register<uint64_t>(common_ + kQueueDesc, address_of(g_descriptors));
  write_register<uint64_t>(common_ + kQueueDriver, address_of(&g_available));
  write_register<uint64_t>(common_ + kQueueDevice, address_of(&g_used));
  doorbell_ = notify_ + static_cast<uintptr_t>(notify_multiplier_) *
                            read_register<uint16_t>(common_ + kQueueNotifyOff);
  g_available.flags = 1;  // no interrupts, for devices without EVENT_IDX
  g_available.used_event = 0xffff;
  write_register<uint16_t>(common_ + kQueueEnable, 1);
  write_register<uint8_t>(common_ + kDeviceStatus, 0xf);  // DRIVER_OK
}

// The last block's number and the block size, once the unit attentions of a new unit are told.
void DiskDriver::read_capacity() {
  alignas(64) static volatile uint8_t answer[8];
  for (unsigned turn = 0; turn < 8; ++turn) {
    add(0, kFlush, 0, nullptr, 0);
    g_scsi_requests[0].cdb[0] = 0x25;
    const auto first = static_cast<uint16_t>(at_ - 1);  // the response: data follow
    at_ = first;
    put(address_of(&g_scsi_responses[0]), sizeof(ScsiResponse), true, false);
    put(address_of(answer), sizeof(answer), true, true);
    kick();
    while (poll() < 0) pause_cpu();
    if (status(0) != kOk) continue;
    for (unsigned i = 0; i < 4; ++i) sectors_ = sectors_ << 8U | answer[i];
    ++sectors_;
    if (answer[6] != 2 || answer[7] != 0) fail("blocks of other than 512 bytes");
    return;
  }
  fail("no capacity");
}

void DiskDriver::put(uintptr_t address, uint32_t bytes, bool device_writes, bool last) {
  const auto flags = static_cast<uint16_t>((device_writes ? 2U : 0U) | (last ? 0U : 1U));
  g_descriptors[at_] = {address, bytes, flags, static_cast<uint16_t>(at_ + 1)};
  ++at_;
}

void DiskDriver::put_data(void* buffer, uint32_t length, unsigned segments, bool device_writes,
                          bool last) {
  const uint32_t piece = length / segments;
  for (unsigned i = 0; length != 0 && i < segments; ++i) {
    const bool ends = i + 1 == segments;
    const uint32_t bytes = ends ? length - piece * (segments - 1) : piece;
    put(address_of(buffer) + static_cast<uintptr_t>(piece) * i, bytes, device_writes, last && ends);
  }
}

void DiskDriver::add(unsigned slot, RequestType type, uint64_t sector, void* buffer,
                     uint32_t length, unsigned segments) {
  const auto first = static_cast<uint16_t>(slot * kDescriptorsPerSlot);
  if (segments > kDescriptorsPerSlot - 2) fail("more segments than a slot has descriptors");
  at_ = first;
  if (scsi_) {
    ScsiRequest& request = g_scsi_requests[slot];
    request.lun[0] = 1;
    request.lun[2] = 0x40;
    request.id = slot;
    make_cdb(request, type, sector, length);
    g_scsi_responses[slot].response = kPending;
    put(address_of(&request), sizeof(ScsiRequest), false, false);
    if (type == kOut) put_data(buffer, length, segments, false, false);
    const bool data_follow = type == kIn && length > 0;
    put(address_of(&g_scsi_responses[slot]), sizeof(ScsiResponse), true, !data_follow);
    if (data_follow) put_data(buffer, length, segments, true, true);
  } else {
    g_headers[slot] = {type, 0, sector};
    g_status[slot] = kPending;
    put(address_of(&g_headers[slot]), sizeof(RequestHeader), false, false);
    put_data(buffer, length, segments, type != kOut, false);
    put(address_of(&g_status[slot]), 1, true, true);
  }
  g_available.ring[available_ % kQueueSize] = first;
  ++available_;
}

void DiskDriver::kick() {
  memory_barrier();
  *static_cast<volatile uint16_t*>(&g_available.index) = available_;
  // Polled: the device must never find that it reached used_event.
  g_available.used_event = static_cast<uint16_t>(used_ - 1);
  memory_barrier();
  const uint16_t before = published_;
  published_ = available_;
  if (event_index_) {
    const auto past = static_cast<uint16_t>(available_ - g_used.avail_event - 1);
    if (past >= static_cast<uint16_t>(available_ - before)) return;
  } else if ((g_used.flags & 1U) != 0) {
    return;
  }
  write_register<uint16_t>(doorbell_, scsi_ ? kScsiRequestQueue : 0);
}

int DiskDriver::poll() {
  if (g_used.index == used_) return -1;
  const uint32_t id = g_used.ring[used_ % kQueueSize].id;
  ++used_;
  if (id % kDescriptorsPerSlot != 0 || id >= kQueueSize) fail("the used ring names no request");
  return static_cast<int>(id / kDescriptorsPerSlot);
}

RequestStatus DiskDriver::status(unsigned slot) const {
  if (!scsi_) return static_cast<RequestStatus>(g_status[slot]);
  memory_barrier();
  const ScsiResponse& response = g_scsi_responses[slot];
  return response.response == 0 && response.status == 0 ? kOk : kIoError;
}

RequestStatus DiskDriver::run(RequestType type, uint64_t sector, void* buffer, uint32_t length,
                              unsigned segments) {
  add(0, type, sector, buffer, length, segments);
  kick();
  while (poll() < 0) pause_cpu();
  return status(0);
}
