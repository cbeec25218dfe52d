#include "blockdev/cow_snapshot_device.h"

#include <cerrno>
#include <utility>

#include "base/log.h"

namespace plumb {
namespace {

// Requests handed to the thread at once: enough that it never waits for the I/O thread.
constexpr size_t kReads = 64;

}  // namespace

struct CowSnapshotDevice::Read : WorkerThreads::Job {
  CowSnapshotDevice* device = nullptr;
  BlockRequest* request = nullptr;
  int error = 0;
  Read* next_idle = nullptr;
};

Result<std::unique_ptr<CowSnapshotDevice>> CowSnapshotDevice::open(
    std::unique_ptr<CowReader> reader, uint32_t block_size, IoThread& thread) {
  std::unique_ptr<CowSnapshotDevice> device(
      new CowSnapshotDevice(std::move(reader), block_size, thread));
  device->worker_ = TRY(WorkerThreads::start({.name = "snapshot", .threads = 1, .at_start = {}}));
  return device;
}

CowSnapshotDevice::CowSnapshotDevice(std::unique_ptr<CowReader> reader, uint32_t block_size,
                                     IoThread& thread)
    : reader_(std::move(reader)), thread_(thread), reads_(kReads) {
  info_.size_bytes = reader_->size_bytes();
  info_.logical_block_size = block_size;
  info_.physical_block_size = kCowPageBytes;
  info_.read_only = true;
  for (Read& read : reads_) {
    read.device = this;
    read.run = run;
    read.next_idle = std::exchange(idle_, &read);
  }
}

CowSnapshotDevice::~CowSnapshotDevice() { ENSURE(running_ == 0 && waiting_.empty()); }

void CowSnapshotDevice::submit(BlockRequest& request) {
  Read* read = idle_;
  if (read == nullptr) return waiting_.push(request);
  idle_ = read->next_idle;
  ++running_;
  read->request = &request;
  worker_->submit(*read);
}

// On the worker thread.
void CowSnapshotDevice::run(WorkerThreads::Job& job) {
  Read& read = static_cast<Read&>(job);
  CowSnapshotDevice& device = *read.device;
  const BlockRequest& request = *read.request;
  read.error = 0;
  uint64_t at = request.offset;
  // A flush has nothing to move.
  for (uint32_t i = 0; i < request.iov_count && read.error == 0; ++i) {
    const iovec& part = request.iov[i];
    Result<> done =
        device.reader_->read(at, {static_cast<std::byte*>(part.iov_base), part.iov_len});
    at += part.iov_len;
    if (done.ok()) continue;
    read.error = EIO;
    if (!std::exchange(device.told_, true)) log::error("{}", done.error().message);
  }
  device.thread_.post([&device, &read] { device.finished(read); });
}

void CowSnapshotDevice::finished(Read& read) {
  BlockRequest& request = *std::exchange(read.request, nullptr);
  --running_;
  read.next_idle = std::exchange(idle_, &read);
  request.error = read.error;
  if (BlockRequest* waiting = waiting_.pop(); waiting != nullptr) submit(*waiting);
  request.done(request);
}

}  // namespace plumb
