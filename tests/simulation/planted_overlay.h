// Layers over an overlay, or a disk, with one bug: what a mistake in CowDevice or CowReader would
// be.
#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/iovecs.h"
#include "blockdev/block_device.h"
#include "blockdev/cow_overlay_format.h"
#include "blockdev/io_thread.h"
#include "tests/simulation/cow_run.h"

namespace plumb::simulation {

// Over an overlay's file, or, for kNoFlush, the disk.
class PlantedOverlay final : public BlockDevice {
 public:
  PlantedOverlay(CowBug bug, uint64_t data_at, std::unique_ptr<BlockDevice> below, IoThread& thread)
      : bug_(bug), data_at_(data_at), below_(std::move(below)), thread_(thread) {}

  const BlockInfo& info() const override { return below_->info(); }
  Result<> reread_size() override { return below_->reread_size(); }
  void submit(BlockRequest& request) override {
    const bool write = request.op == BlockOp::kWrite;
    const bool data = write && request.offset >= data_at_;
    const bool table = write && request.offset >= kCowTableAt && !data;
    const bool state = write && request.offset == kCowStateAt;
    switch (bug_) {
      case CowBug::kNoFlush:
        // Not the guest's: that comes by the Disk.
        if (request.op == BlockOp::kFlush && request.disk == nullptr) return end(request);
        break;
      case CowBug::kDataNotDurable:
        request.durable &= !data;
        break;
      case CowBug::kTableNotDurable:
        request.durable &= !table;
        break;
      case CowBug::kNotSealed:
        if (state && condition_in(request) == CowCondition::kSealed) return end(request);
        break;
      case CowBug::kMarkLost:
        if (state && condition_in(request) == CowCondition::kBroken) return end(request);
        break;
      case CowBug::kTableBeforeData:
        if (data) return end_before(request);
        if (table) return send_before_kept(request);
        break;
      case CowBug::kWriteBeforeTable:
        // The one before it is written with it, which has its bits too.
        if (table && std::exchange(skipped_, !skipped_)) break;
        if (table) return end(request);
        break;
      default:
        break;
    }
    below_->submit(request);
  }

 private:
  // What was told as written, and is not yet.
  struct Late : BlockRequest {
    std::vector<std::byte> bytes;
    iovec part{};
    PlantedOverlay* device = nullptr;
  };

  static CowCondition condition_in(const BlockRequest& request) {
    CowStateRecord record;
    copy_from({request.iov, request.iov_count},
              {reinterpret_cast<std::byte*>(&record), sizeof(record)});
    return static_cast<CowCondition>(record.condition);
  }
  void end(BlockRequest& request) {
    request.error = 0;
    thread_.post([&request] { request.done(request); });
  }
  void end_before(BlockRequest& request) {
    auto late = std::make_unique<Late>();
    late->op = BlockOp::kWrite;
    late->durable = true;
    late->offset = request.offset;
    late->length = request.length;
    late->bytes.resize(request.length);
    copy_from({request.iov, request.iov_count}, late->bytes);
    late->part = {.iov_base = late->bytes.data(), .iov_len = late->bytes.size()};
    late->iov = &late->part;
    late->iov_count = 1;
    late->device = this;
    late->done = [](BlockRequest& ended) { static_cast<Late&>(ended).device->late_ended(); };
    kept_.push_back(std::move(late));
    end(request);
  }
  // The table first, then the data, and only then it is told that the table is written.
  void send_before_kept(BlockRequest& request) {
    table_ = &request;
    table_done_ = request.done;
    request.parent = reinterpret_cast<BlockRequest*>(this);
    request.done = [](BlockRequest& ended) {
      auto& device = *reinterpret_cast<PlantedOverlay*>(ended.parent);
      device.waits_for_ = device.kept_.size();
      for (const auto& late : device.kept_) device.below_->submit(*late);
      if (device.waits_for_ == 0) device.tell_table();
    };
    below_->submit(request);
  }
  void late_ended() {
    if (--waits_for_ > 0) return;
    kept_.clear();
    tell_table();
  }
  void tell_table() {
    BlockRequest& request = *std::exchange(table_, nullptr);
    request.done = table_done_;
    thread_.post([&request] { request.done(request); });
  }

  const CowBug bug_;
  const uint64_t data_at_;
  const std::unique_ptr<BlockDevice> below_;
  IoThread& thread_;
  std::deque<std::unique_ptr<Late>> kept_;
  size_t waits_for_ = 0;
  bool skipped_ = false;
  BlockRequest* table_ = nullptr;
  BlockRequest::Done table_done_ = nullptr;
};

// Finds of the bytes from `begin` to `end` what it found the first time.
class RememberingFile final : public CowFile {
 public:
  RememberingFile(std::unique_ptr<CowFile> below, uint64_t begin, uint64_t end)
      : below_(std::move(below)), begin_(begin), end_(end) {}

  const std::string& label() const override { return below_->label(); }
  Result<> read(uint64_t offset, std::span<std::byte> to) override {
    if (offset < begin_ || offset >= end_) return below_->read(offset, to);
    auto [found, is_new] = found_.try_emplace(offset);
    if (is_new) {
      found->second.resize(to.size());
      TRY(below_->read(offset, found->second));
    }
    std::memcpy(to.data(), found->second.data(), to.size());
    return {};
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) override {
    return below_->write(offset, from);
  }
  Result<> sync() override { return below_->sync(); }
  Result<bool> has_writer() override { return below_->has_writer(); }

 private:
  const std::unique_ptr<CowFile> below_;
  const uint64_t begin_;
  const uint64_t end_;
  std::map<uint64_t, std::vector<std::byte>> found_;
};

}  // namespace plumb::simulation
