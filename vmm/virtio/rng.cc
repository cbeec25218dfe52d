#include "vmm/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>

namespace plumb {
namespace {

constexpr uint16_t kRequests = 0;
constexpr uint16_t kMaxSegments = 64;

// Fills the chain with random bytes; returns how many.
uint32_t fill(std::span<iovec> parts) {
  uint32_t written = 0;
  for (const iovec& part : parts) {
    const size_t wanted = std::min<size_t>(part.iov_len, VirtioRng::kMaxBytes - written);
    const ssize_t got = wanted == 0 ? 0 : ::getrandom(part.iov_base, wanted, GRND_NONBLOCK);
    if (got > 0) written += static_cast<uint32_t>(got);
    // Fewer than asked for: the limit, or a signal; the driver asks again.
    if (got < static_cast<ssize_t>(part.iov_len)) break;
  }
  return written;
}

}  // namespace

VirtioRng::VirtioRng(IoThread& thread)
    : queues_({.name = "random number generator",
               .sizes = kQueueSizes,
               .max_segments = kMaxSegments,
               .kicked = [this](uint16_t) { serve(); }},
              thread) {}

uint64_t VirtioRng::features() const {
  return kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx;
}

void VirtioRng::read_config(uint32_t, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
}

Result<> VirtioRng::activate(const VirtioActivation& activation) {
  return queues_.activate(activation, [] {});
}

void VirtioRng::reset() {
  queues_.reset([] {});
}

void VirtioRng::serve() {
  queues_.serve(kRequests, [this](VirtqueueChain chain) {
    const uint32_t written = fill(chain.writable());
    queues_.push(kRequests, std::move(chain), written);
    return true;
  });
}

}  // namespace plumb
