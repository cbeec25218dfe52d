#include "vmm/virtio/net.h"

#include <linux/if_tun.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/endian.h"
#include "base/iovecs.h"
#include "base/log.h"

namespace plumb {
namespace {

// Section 5.1.3.
constexpr uint64_t kFeatureChecksum = 1ULL << 0U;       // the driver may leave checksums to us
constexpr uint64_t kFeatureGuestChecksum = 1ULL << 1U;  // the driver takes frames without
constexpr uint64_t kFeatureMac = 1ULL << 5U;
constexpr uint64_t kFeatureGuestTso4 = 1ULL << 7U;
constexpr uint64_t kFeatureGuestTso6 = 1ULL << 8U;
constexpr uint64_t kFeatureHostTso4 = 1ULL << 11U;
constexpr uint64_t kFeatureHostTso6 = 1ULL << 12U;
constexpr uint64_t kFeatureMergeBuffers = 1ULL << 15U;

constexpr uint16_t kReceive = 0;
constexpr uint16_t kTransmit = 1;
// A 64 KiB frame in pages, unaligned, with its header; as many as a socket buffer has fragments.
constexpr uint16_t kMaxSegments = 64;
constexpr size_t kNumBuffersOffset = 10;  // in the header

unsigned tun_flags(uint64_t features) {
  unsigned flags = 0;
  if ((features & kFeatureGuestChecksum) == 0) return 0;  // segmentation needs it
  flags |= TUN_F_CSUM;
  if ((features & kFeatureGuestTso4) != 0) flags |= TUN_F_TSO4;
  if ((features & kFeatureGuestTso6) != 0) flags |= TUN_F_TSO6;
  return flags;
}

}  // namespace

VirtioNet::VirtioNet(UniqueFd tap, const MacAddress& mac, IoThread& thread)
    : tap_(std::move(tap)),
      mac_(mac),
      queues_({.name = "network interface",
               .sizes = kQueueSizes,
               .max_segments = kMaxSegments,
               .kicked = [this](uint16_t queue) { queue == kTransmit ? transmit() : receive(); }},
              thread),
      frame_(kMaxFrameBytes) {
  buffers_.reserve(kMaxMerged);
  features_ = kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx | kFeatureMac |
              kFeatureMergeBuffers;
  if (set_tap_offloads(tap_.get(), TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)) {
    features_ |= kFeatureChecksum | kFeatureGuestChecksum | kFeatureGuestTso4 | kFeatureGuestTso6 |
                 kFeatureHostTso4 | kFeatureHostTso6;
    set_tap_offloads(tap_.get(), 0);
  }
}

void VirtioNet::read_config(uint32_t offset, std::span<std::byte> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t field = uint64_t{offset} + i;
    data[i] = field < mac_.size() ? std::byte{mac_[field]} : std::byte{0};
  }
}

Result<> VirtioNet::activate(const VirtioActivation& activation) {
  return queues_.activate(activation, [&] { start(activation.features); });
}

void VirtioNet::reset() {
  queues_.reset([this] { stop(); });
}

void VirtioNet::start(uint64_t features) {
  merge_ = (features & kFeatureMergeBuffers) != 0;
  frame_bytes_ = 0;
  set_tap_offloads(tap_.get(), tun_flags(features));
}

void VirtioNet::stop() {
  watch_tap(false);
  for (VirtqueueChain& chain : buffers_) queues_.abandon(kReceive, std::move(chain));
  buffers_.clear();
}

void VirtioNet::transmit() {
  queues_.serve(kTransmit, [this](VirtqueueChain chain) {
    const std::span<iovec> parts = chain.readable();
    const size_t bytes = total_bytes(parts);
    // The kernel checks the header. A frame that the tap does not take is lost, as on a wire.
    if (bytes > kHeaderBytes && bytes <= kMaxFrameBytes) {
      [[maybe_unused]] const ssize_t sent =
          ::writev(tap_.get(), parts.data(), static_cast<int>(parts.size()));
    }
    queues_.push(kTransmit, std::move(chain), 0);
    return true;
  });
}

// Moves frames from the tap to the guest until either has no more.
void VirtioNet::receive() {
  for (int i = 0; i < kFramesPerTurn && !tap_gone_; ++i) {
    if (frame_bytes_ == 0 && !read_frame()) return watch_tap(true);
    if (!deliver_frame()) return watch_tap(false);
  }
  // There may be more: a watched descriptor is reported again in the next turn.
  watch_tap(true);
}

bool VirtioNet::read_frame() {
  const ssize_t got = ::read(tap_.get(), frame_.data(), frame_.size());
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
    // Watched on, it would be reported for ever.
    log::error("the tap interface of a guest is gone: {}",
               got == 0 ? "closed" : std::strerror(errno));
    tap_gone_ = true;
  }
  if (got <= static_cast<ssize_t>(kHeaderBytes)) return false;
  frame_bytes_ = static_cast<size_t>(got);
  return true;
}

// Puts the frame into as many of the guest's buffers as it needs. False when there are too few for
// now: the frame and the buffers are kept, and a kick comes when there are more.
bool VirtioNet::deliver_frame() {
  size_t room = 0;
  for (const VirtqueueChain& chain : buffers_) room += total_bytes(chain.writable());
  const size_t most = merge_ ? kMaxMerged : 1;
  while (room < frame_bytes_ && buffers_.size() < most) {
    std::optional<VirtqueueChain> chain = queues_.pop(kReceive);
    if (!chain && queues_.enable_kicks(kReceive)) chain = queues_.pop(kReceive);
    if (!chain) return false;
    room += total_bytes(chain->writable());
    buffers_.push_back(std::move(*chain));
  }
  // A frame that is too long for its buffers is lost, and the driver gets them back empty.
  std::span<const std::byte> left(frame_.data(), room < frame_bytes_ ? 0 : frame_bytes_);
  store_le<uint16_t>(frame_.data() + kNumBuffersOffset, static_cast<uint16_t>(buffers_.size()));
  for (VirtqueueChain& chain : buffers_) {
    const size_t written = copy_to(chain.writable(), left);
    left = left.subspan(written);
    queues_.push(kReceive, std::move(chain), static_cast<uint32_t>(written));
  }
  buffers_.clear();
  frame_bytes_ = 0;
  return true;
}

void VirtioNet::watch_tap(bool on) {
  on = on && !tap_gone_;
  if (on == watched_) return;
  watched_ = on;
  if (on) {
    queues_.thread().watch(tap_.get(), [this] { receive(); });
  } else {
    queues_.thread().unwatch(tap_.get());
  }
}

}  // namespace plumb
