// A block device without a thread for the fuzz targets of the transport: what its doorbells ask
// for is done when serve() is called.
#pragma once

#include <unistd.h>

#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "vmm/virtio/blk_request.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/virtio_device.h"

namespace plumb {

// What the device has become, for the harness, which does not own it.
struct InlineBlkState {
  bool active = false;
  uint64_t features = 0;
  std::vector<VirtioQueueSetup> setups;
  unsigned needed_resets = 0;
};

class InlineBlk final : public VirtioDevice {
 public:
  static constexpr uint16_t kSegMax = 16;

  // `state` and `disk` outlive the device.
  InlineBlk(InlineBlkState& state, std::span<std::byte> disk) : state_(state), disk_(disk) {
    info_.size_bytes = disk.size();
    info_.max_discard_bytes = info_.max_write_zeroes_bytes = 1U << 20U;
  }
  ~InlineBlk() override { reset(); }

  uint16_t device_id() const override { return kVirtioIdBlk; }
  uint64_t features() const override {
    return kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx;
  }
  std::span<const uint16_t> queue_sizes() const override { return kSizes; }
  void read_config(uint32_t offset, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = offset + i < config_.size() ? config_[offset + i] : std::byte{0};
    }
  }
  void write_config(uint32_t offset, std::span<const std::byte> data) override {
    for (size_t i = 0; i < data.size() && offset + i < config_.size(); ++i) {
      config_[offset + i] = data[i];
    }
  }

  Result<> activate(const VirtioActivation& activation) override {
    ENSURE(!state_.active);
    ENSURE(activation.queues.size() == kSizes.size());
    ENSURE((activation.features & ~features()) == 0);
    ENSURE((activation.features & kVirtioFVersion1) != 0);
    state_.active = true;
    state_.features = activation.features;
    state_.setups.assign(activation.queues.begin(), activation.queues.end());
    Queues queues;
    for (size_t i = 0; i < kSizes.size(); ++i) {
      const VirtioQueueSetup& setup = activation.queues[i];
      ENSURE(std::has_single_bit(setup.size) && setup.size <= kSizes[i]);
      if (!setup.enabled) continue;
      queues[i] = TRY(Virtqueue::create(setup, activation.features, *activation.memory, kSegMax));
    }
    queues_ = std::move(queues);
    interrupt_ = activation.interrupt;
    return {};
  }
  void reset() override {
    for (auto& queue : queues_) queue = nullptr;
    interrupt_ = nullptr;
    state_.active = false;
  }

  // A turn of the I/O thread: every queue whose doorbell has rung.
  void serve() {
    for (uint16_t i = 0; i < kSizes.size(); ++i) {
      uint64_t kicks = 0;
      if (queues_[i] == nullptr) continue;
      if (::read(state_.setups[i].kick_fd, &kicks, sizeof(kicks)) != sizeof(kicks)) continue;
      queues_[i]->disable_kicks();
      do {
        while (queues_[i] != nullptr && serve_one(i)) {
        }
      } while (queues_[i] != nullptr && queues_[i]->enable_kicks());
      if (queues_[i] != nullptr && queues_[i]->publish()) interrupt_->signal_queue(i);
    }
  }

  static constexpr std::array<uint16_t, 2> kSizes{64, 16};

 private:
  using Queues = std::array<std::unique_ptr<Virtqueue>, kSizes.size()>;

  bool serve_one(uint16_t index) {
    Result<std::optional<VirtqueueChain>> popped = queues_[index]->pop();
    if (!popped.ok()) {
      ++state_.needed_resets;
      queues_[index] = nullptr;
      interrupt_->needs_reset();
      return false;
    }
    if (!popped->has_value()) return false;
    VirtqueueChain chain = std::move(**popped);
    const BlkRequest request = parse_blk_request(chain.readable(), chain.writable(), info_);
    const uint8_t status = perform(request);
    uint32_t written = 0;
    if (request.status != nullptr) {
      *request.status = std::byte{status};
      if (status == kBlkOk) written = static_cast<uint32_t>(request.writable_bytes);
    }
    queues_[index]->push(std::move(chain), written);
    return true;
  }

  uint8_t perform(const BlkRequest& request) {
    std::byte* at = disk_.data() + request.offset;
    switch (request.action) {
      case BlkAction::kReject:
        return request.verdict;
      case BlkAction::kTransfer:
        for (const iovec& part : request.data) {
          if (request.op == BlockOp::kRead) {
            std::memmove(part.iov_base, at, part.iov_len);
          } else {
            std::memmove(at, part.iov_base, part.iov_len);
          }
          at += part.iov_len;
        }
        return kBlkOk;
      case BlkAction::kRange:
        std::memset(at, 0, request.length);
        return kBlkOk;
      case BlkAction::kGetId:
        for (const iovec& part : request.data) std::memset(part.iov_base, 'S', part.iov_len);
        return kBlkOk;
      case BlkAction::kFlush:
        return kBlkOk;
    }
    return kBlkIoError;
  }

  InlineBlkState& state_;
  const std::span<std::byte> disk_;
  BlockInfo info_;
  std::array<std::byte, 60> config_{};
  VirtioInterrupt* interrupt_ = nullptr;
  Queues queues_;
};

}  // namespace plumb
