#include "vmm/virtio/pci.h"

#include <algorithm>
#include <array>

namespace plumb {
namespace {

constexpr uint16_t kVendor = 0x1af4;
constexpr uint16_t kDeviceBase = 0x1040;     // + device type (4.1.2.1)
constexpr uint16_t kSubsystemBase = 0x1040;  // any value from 0x40 on says "not transitional"
constexpr uint8_t kRevision = 1;

constexpr unsigned kBar = 0;
constexpr uint32_t kCommon = 0x0000;
constexpr uint32_t kIsr = 0x1000;
constexpr uint32_t kDevice = 0x2000;
constexpr uint32_t kNotify = 0x3000;
constexpr uint32_t kMsixTable = 0x4000;
constexpr uint32_t kMsixPending = 0x5000;
constexpr uint32_t kBarSize = 0x8000;
constexpr uint32_t kRegion = 0x1000;
constexpr uint32_t kNotifyMultiplier = 4;
// Queues, and vectors, for which there is room in the regions above.
constexpr size_t kMaxQueues = kRegion / 16 - 1;

constexpr uint8_t kCapVendor = 0x09;
// cfg_type of struct virtio_pci_cap (4.1.4).
constexpr uint8_t kCfgCommon = 1;
constexpr uint8_t kCfgNotify = 2;
constexpr uint8_t kCfgIsr = 3;
constexpr uint8_t kCfgDevice = 4;
constexpr uint8_t kCfgPci = 5;

// Offsets in struct virtio_pci_cfg_cap (4.1.4.9).
constexpr uint32_t kWindowBar = 4;
constexpr uint32_t kWindowOffset = 8;
constexpr uint32_t kWindowLength = 12;
constexpr uint32_t kWindowData = 16;

constexpr uint32_t kMsixControl = 2;

// Class codes by device type, for software that looks at those; others are "unclassified".
uint32_t class_code(uint16_t device_id) {
  switch (device_id) {
    case kVirtioIdNet:
      return 0x020000;
    case kVirtioIdBlk:
    case kVirtioIdScsi:
      return 0x010000;
    case kVirtioIdConsole:
      return 0x078000;
    default:
      return 0xff0000;
  }
}

bool overlaps(uint32_t offset, size_t length, uint32_t start, uint32_t size) {
  return offset < start + size && start < offset + length;
}

}  // namespace

Result<std::unique_ptr<VirtioPci>> VirtioPci::create(std::unique_ptr<VirtioDevice> device,
                                                     const GuestMemory& memory,
                                                     EventRouter& router) {
  ENSURE(device->queue_sizes().size() <= kMaxQueues);
  std::unique_ptr<VirtioPci> pci(new VirtioPci(std::move(device), router));
  VirtioPciCommon::Config config{.device = pci->device_.get(),
                                 .memory = &memory,
                                 .msix = &pci->msix_,
                                 .set_doorbells = [pci = pci.get()](bool on) {
                                   const std::lock_guard lock(pci->doorbell_mutex_);
                                   pci->active_ = on;
                                   pci->update_doorbells();
                                 }};
  pci->common_ = TRY(VirtioPciCommon::create(std::move(config)));
  return pci;
}

VirtioPci::VirtioPci(std::unique_ptr<VirtioDevice> device, EventRouter& router)
    : PciFunction({.vendor = kVendor,
                   .device = static_cast<uint16_t>(kDeviceBase + device->device_id()),
                   .revision = kRevision,
                   .class_code = class_code(device->device_id()),
                   .subsystem_vendor = kVendor,
                   .subsystem = static_cast<uint16_t>(kSubsystemBase + device->device_id())}),
      device_(std::move(device)),
      router_(router),
      // One for each queue and one for configuration changes.
      msix_(router, static_cast<uint16_t>(device_->queue_sizes().size() + 1)) {
  add_bar(kBar, kBarSize, true, *this);
  add_capabilities();
}

VirtioPci::~VirtioPci() = default;

void VirtioPci::add_capabilities() {
  add_region(kCfgCommon, kCommon, kVirtioPciCommonSize);
  add_region(kCfgIsr, kIsr, 1);
  add_region(kCfgDevice, kDevice, kRegion);
  std::array<std::byte, 4> multiplier{};
  store_le<uint32_t>(multiplier.data(), kNotifyMultiplier);
  const auto queues = static_cast<uint32_t>(device_->queue_sizes().size());
  add_region(kCfgNotify, kNotify, queues * kNotifyMultiplier, multiplier);

  std::array<std::byte, 10> msix{};
  store_le<uint16_t>(&msix[0], static_cast<uint16_t>(msix_.vectors() - 1));
  store_le<uint32_t>(&msix[2], kMsixTable | kBar);
  store_le<uint32_t>(&msix[6], kMsixPending | kBar);
  msix_capability_ = add_capability(kPciCapMsix, msix);
  std::array<std::byte, 2> control{};
  store_le<uint16_t>(control.data(), kMsixEnable | kMsixMaskAll);
  set_writable(msix_capability_ + kMsixControl, control);

  const std::array<std::byte, 4> data{};
  add_region(kCfgPci, 0, 0, data);
  std::array<std::byte, 16> window{};
  window.fill(std::byte{0xff});
  std::fill_n(window.begin() + 1, 3, std::byte{0});  // padding after the BAR number
  set_writable(window_capability_ + kWindowBar, window);
}

void VirtioPci::add_region(uint8_t type, uint32_t offset, uint32_t length,
                           std::span<const std::byte> more) {
  std::array<std::byte, 18> body{};
  const size_t size = 14 + more.size();
  store_le<uint8_t>(&body[0], static_cast<uint8_t>(size + 2));
  store_le<uint8_t>(&body[1], type);
  store_le<uint8_t>(&body[2], kBar);
  store_le<uint32_t>(&body[6], offset);
  store_le<uint32_t>(&body[10], length);
  std::copy(more.begin(), more.end(), body.begin() + 14);
  const uint8_t at = add_capability(kCapVendor, std::span(body).first(size));
  if (type == kCfgPci) window_capability_ = at;
}

void VirtioPci::read(uint64_t offset, std::span<std::byte> data) {
  const uint64_t at = offset % kRegion;
  switch (offset - at) {
    case kCommon:
      common_->read(at, data);
      return;
    case kIsr:
      std::fill(data.begin(), data.end(), std::byte{0});
      if (at == 0) data[0] = std::byte{common_->take_isr()};
      return;
    case kDevice:
      device_->read_config(static_cast<uint32_t>(at), data);
      return;
    case kMsixTable:
      msix_.read_table(at, data);
      return;
    case kMsixPending:
      msix_.read_pending(at, data);
      return;
    default:
      std::fill(data.begin(), data.end(), std::byte{0});
      return;
  }
}

void VirtioPci::write(uint64_t offset, std::span<const std::byte> data) {
  const uint64_t at = offset % kRegion;
  switch (offset - at) {
    case kCommon:
      common_->write(at, data);
      return;
    case kDevice:
      device_->write_config(static_cast<uint32_t>(at), data);
      return;
    case kNotify:
      // Only where no ioeventfd took it. The address alone names the queue (4.1.5.2).
      if (at % kNotifyMultiplier == 0) common_->kick(at / kNotifyMultiplier);
      return;
    case kMsixTable:
      msix_.write_table(at, data);
      return;
    default:
      return;
  }
}

VirtioPci::Window VirtioPci::window() const {
  const auto bar = get<uint8_t>(window_capability_ + kWindowBar);
  const auto offset = get<uint32_t>(window_capability_ + kWindowOffset);
  const auto length = get<uint32_t>(window_capability_ + kWindowLength);
  const bool width = length == 1 || length == 2 || length == 4;
  // As 4.1.4.9.1 has drivers do; anything else shows nothing.
  if (bar != kBar || !width || offset % length != 0 || offset > kBarSize - length) return {};
  return {offset, length};
}

void VirtioPci::config_will_be_read(uint32_t offset, size_t length) {
  const uint32_t at = window_capability_ + kWindowData;
  if (!overlaps(offset, length, at, 4)) return;
  const Window shown = window();
  std::array<std::byte, 4> data{};
  if (shown.length != 0) read(shown.offset, std::span(data).first(shown.length));
  set<uint32_t>(at, load_le<uint32_t>(data.data()), 0xffffffff);
}

void VirtioPci::config_written(uint32_t offset, size_t length) {
  if (overlaps(offset, length, msix_capability_ + kMsixControl, 2)) {
    msix_.set_control(get<uint16_t>(msix_capability_ + kMsixControl));
  }
  const uint32_t at = window_capability_ + kWindowData;
  if (!overlaps(offset, length, at, 4)) return;
  const Window shown = window();
  if (shown.length == 0) return;
  std::array<std::byte, 4> data{};
  store_le<uint32_t>(data.data(), get<uint32_t>(at));
  write(shown.offset, std::span(data).first(shown.length));
}

void VirtioPci::bar_moved(unsigned /*index*/, bool mapped, uint64_t address) {
  const std::lock_guard lock(doorbell_mutex_);
  mapped_ = mapped;
  bar_address_ = address;
  update_doorbells();
}

// Doorbells cost the host a walk over all of a VM's vCPUs each, so they are there only while the
// device is in use. doorbell_mutex_ is held.
void VirtioPci::update_doorbells() {
  const uint64_t wanted = active_ && mapped_ ? bar_address_ + kNotify : 0;
  if (wanted == doorbells_at_) return;
  const std::span<const UniqueFd> fds = common_->kick_fds();
  for (size_t i = 0; i < fds.size(); ++i) {
    const uint64_t offset = i * kNotifyMultiplier;
    if (doorbells_at_ != 0) router_.remove_doorbell(doorbells_at_ + offset, fds[i].get());
    if (wanted != 0) router_.add_doorbell(wanted + offset, fds[i].get());
  }
  doorbells_at_ = wanted;
}

}  // namespace plumb
