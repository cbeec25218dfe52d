// Sends block requests to a device or disk from a test's thread and waits for them.
#pragma once

#include <cstring>
#include <memory>
#include <semaphore>
#include <vector>

#include "base/aligned_memory.h"
#include "blockdev/block_device.h"
#include "blockdev/io_thread.h"

namespace plumb {

// Zeroed memory at a page boundary, as guests' buffers mostly are.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes) : data_(aligned_memory(bytes)), size_(bytes) {
    std::memset(data_.get(), 0, bytes);
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  void fill(unsigned char value) const { std::memset(data_.get(), value, size_); }
  // Bytes that tell position and seed.
  void fill_pattern(unsigned seed) const {
    for (size_t i = 0; i < size_; ++i)
      data_.get()[i] = static_cast<std::byte>(i * 7 + seed + i / 512);
  }
  bool all(unsigned char value) const {
    for (size_t i = 0; i < size_; ++i) {
      if (data_.get()[i] != std::byte{value}) return false;
    }
    return true;
  }
  bool operator==(const AlignedBuffer& other) const {
    return size_ == other.size_ && std::memcmp(data(), other.data(), size_) == 0;
  }
  iovec part(size_t offset, size_t bytes) const { return {data_.get() + offset, bytes}; }

 private:
  AlignedMemory data_;
  size_t size_;
};

// A request with its buffers and a place to wait for it.
struct TestRequest : BlockRequest {
  std::vector<iovec> parts;
  std::binary_semaphore ended{0};
  int calls = 0;  // of done(): one, when all is well
  bool inside_submit = false;
  bool done_inside_submit = false;

  TestRequest() {
    done = [](BlockRequest& request) {
      auto& self = static_cast<TestRequest&>(request);
      ++self.calls;
      if (self.inside_submit) self.done_inside_submit = true;
      self.ended.release();
    };
  }
  void set_parts(std::vector<iovec> buffers) {
    parts = std::move(buffers);
    iov = parts.data();
    iov_count = static_cast<uint32_t>(parts.size());
    length = 0;
    for (const iovec& part : parts) length += part.iov_len;
  }
};

// `Target` is a BlockDevice or a Disk.
template <typename Target>
class BlockClient {
 public:
  BlockClient(Target& target, IoThread& thread) : target_(target), thread_(thread) {}

  void submit(TestRequest& request) {
    thread_.run([this, &request] {
      request.inside_submit = true;
      target_.submit(request);
      request.inside_submit = false;
    });
  }
  // Each returns the request's error: 0 or an errno.
  int finish(TestRequest& request) {
    submit(request);
    thread_.wait_for(request.ended);
    // done() is the last thing its thread does with it, but for the return.
    thread_.run([] {});
    ENSURE(request.calls == 1 && !request.done_inside_submit);
    return request.error;
  }
  int transfer(BlockOp op, uint64_t offset, std::vector<iovec> parts, bool durable = false) {
    TestRequest request;
    request.op = op;
    request.offset = offset;
    request.durable = durable;
    request.set_parts(std::move(parts));
    return finish(request);
  }
  int write(uint64_t offset, const AlignedBuffer& data, bool durable = false) {
    return transfer(BlockOp::kWrite, offset, {data.part(0, data.size())}, durable);
  }
  int read(uint64_t offset, const AlignedBuffer& data) {
    return transfer(BlockOp::kRead, offset, {data.part(0, data.size())});
  }
  int flush() { return range(BlockOp::kFlush, 0, 0); }
  int range(BlockOp op, uint64_t offset, uint64_t length, bool durable = false,
            bool may_unmap = false) {
    TestRequest request;
    request.op = op;
    request.offset = offset;
    request.length = length;
    request.durable = durable;
    request.may_unmap = may_unmap;
    return finish(request);
  }

 private:
  Target& target_;
  IoThread& thread_;
};

}  // namespace plumb
