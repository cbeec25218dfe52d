// What every BlockDevice must do, whatever it stands on. Used by one TEST_CASE per device:
//   run_block_device_suite(device, thread);
// The device has at least 4 MiB, is writable, and its content is overwritten.
#pragma once

#include <array>
#include <catch2/catch.hpp>

#include "tests/fakes/block_client.h"

namespace plumb::conformance {

using Client = BlockClient<BlockDevice>;

inline void info_is_consistent(BlockDevice& device) {
  const BlockInfo& info = device.info();
  CHECK((info.logical_block_size == 512 || info.logical_block_size == 4096));
  CHECK(info.physical_block_size >= info.logical_block_size);
  CHECK(info.size_bytes >= 4U << 20U);
  CHECK(info.size_bytes % info.logical_block_size == 0);
  CHECK(info.memory_alignment > 0);
  CHECK((info.memory_alignment & (info.memory_alignment - 1)) == 0);
}

inline void what_is_written_is_read(Client& client, uint32_t block) {
  for (const size_t blocks : {1U, 2U, 8U, 256U}) {
    AlignedBuffer out(block * blocks);
    AlignedBuffer in(block * blocks);
    out.fill_pattern(static_cast<unsigned>(blocks));
    const uint64_t offset = block * blocks;
    REQUIRE(client.write(offset, out, blocks % 2 == 0) == 0);
    REQUIRE(client.read(offset, in) == 0);
    CHECK(in == out);
  }
}

inline void neighbours_are_left_alone(Client& client, uint32_t block) {
  AlignedBuffer three(block * 3);
  three.fill(0xaa);
  REQUIRE(client.write(0, three) == 0);
  AlignedBuffer one(block);
  one.fill(0x55);
  REQUIRE(client.write(block, one) == 0);
  REQUIRE(client.read(0, three) == 0);
  CHECK(three.data()[block - 1] == std::byte{0xaa});
  CHECK(three.data()[block] == std::byte{0x55});
  CHECK(three.data()[2 * block - 1] == std::byte{0x55});
  CHECK(three.data()[2 * block] == std::byte{0xaa});
}

inline void first_and_last_block_work(Client& client, const BlockInfo& info) {
  AlignedBuffer out(info.logical_block_size);
  AlignedBuffer in(info.logical_block_size);
  for (const uint64_t offset : {uint64_t{0}, info.size_bytes - info.logical_block_size}) {
    out.fill_pattern(static_cast<unsigned>(offset + 3));
    REQUIRE(client.write(offset, out, true) == 0);
    REQUIRE(client.read(offset, in) == 0);
    CHECK(in == out);
  }
}

inline void buffers_scatter_and_gather(Client& client, uint32_t block) {
  AlignedBuffer out(block * 64);
  AlignedBuffer in(block * 64);
  out.fill_pattern(9);
  std::vector<iovec> from;
  std::vector<iovec> to;
  for (size_t i = 0; i < 64; ++i) from.push_back(out.part(i * block, block));
  for (size_t i = 0; i < 16; ++i) to.push_back(in.part(i * 4 * block, 4 * block));
  REQUIRE(client.transfer(BlockOp::kWrite, 0, from) == 0);
  REQUIRE(client.transfer(BlockOp::kRead, 0, to) == 0);
  CHECK(in == out);
}

// Buffers at odd addresses and of odd lengths, whose sum is whole blocks; longer than one piece
// of a bounce buffer.
inline void misaligned_buffers_work(Client& client, uint32_t block) {
  const size_t length = block * 1024;
  AlignedBuffer out(length + 64);
  AlignedBuffer in(length + 64);
  out.fill_pattern(21);
  REQUIRE(client.transfer(BlockOp::kWrite, 0, {out.part(3, 100), out.part(103, length - 100)},
                          true) == 0);
  REQUIRE(client.transfer(BlockOp::kRead, 0, {in.part(3, length - 7), in.part(length - 4, 7)}) ==
          0);
  CHECK(std::memcmp(in.data() + 3, out.data() + 3, length) == 0);
  CHECK(in.data()[2] == std::byte{0});
  CHECK(in.data()[3 + length] == std::byte{0});
}

inline void zeroes_are_read_back(Client& client, const BlockInfo& info) {
  if (info.max_write_zeroes_bytes == 0) return;
  const uint32_t block = info.logical_block_size;
  for (const bool may_unmap : {false, true}) {
    AlignedBuffer data(block * 512);
    data.fill(0xee);
    REQUIRE(client.write(0, data) == 0);
    REQUIRE(client.range(BlockOp::kWriteZeroes, block, block * 500, true, may_unmap) == 0);
    REQUIRE(client.read(0, data) == 0);
    CHECK(data.data()[block - 1] == std::byte{0xee});
    AlignedBuffer middle(block * 500);
    REQUIRE(client.read(block, middle) == 0);
    CHECK(middle.all(0));
    CHECK(data.data()[block * 501] == std::byte{0xee});
  }
}

inline void discard_leaves_the_rest(Client& client, const BlockInfo& info) {
  if (info.max_discard_bytes == 0) return;
  const uint32_t block = info.logical_block_size;
  AlignedBuffer data(1U << 20U);
  data.fill(0x77);
  REQUIRE(client.write(0, data) == 0);
  REQUIRE(client.range(BlockOp::kDiscard, 256U << 10U, 512U << 10U, true) == 0);
  REQUIRE(client.read(0, data) == 0);
  CHECK(data.data()[(256U << 10U) - 1] == std::byte{0x77});
  CHECK(data.data()[768U << 10U] == std::byte{0x77});
  // What was discarded can be written again.
  AlignedBuffer one(block);
  one.fill(0x12);
  REQUIRE(client.write(256U << 10U, one, true) == 0);
  REQUIRE(client.read(256U << 10U, one) == 0);
  CHECK(one.all(0x12));
}

// More at once than any queue below holds: all come back, once each.
inline void many_at_once_come_back_once(BlockDevice& device, Client& client, IoThread& thread) {
  constexpr size_t kCount = 1200;
  const uint32_t block = device.info().logical_block_size;
  AlignedBuffer data(block * 8);
  data.fill(0x3c);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (size_t i = 0; i < kCount; ++i) {
    auto& request = *requests.emplace_back(std::make_unique<TestRequest>());
    request.op = i % 3 == 0 ? BlockOp::kFlush : BlockOp::kWrite;
    request.durable = i % 2 == 0;
    request.offset = (i % 32) * block * 8;
    if (request.op == BlockOp::kWrite) request.set_parts({data.part(0, data.size())});
  }
  thread.run([&] {
    for (auto& request : requests) device.submit(*request);
  });
  for (auto& request : requests) thread.wait_for(request->ended);
  thread.run([] {});
  for (auto& request : requests) {
    CHECK(request->calls == 1);
    CHECK(request->error == 0);
  }
  REQUIRE(client.read(0, data) == 0);
  CHECK(data.all(0x3c));
}

inline void run_block_device_suite(BlockDevice& device, IoThread& thread) {
  Client client(device, thread);
  const BlockInfo& info = device.info();
  const uint32_t block = info.logical_block_size;
  info_is_consistent(device);
  what_is_written_is_read(client, block);
  neighbours_are_left_alone(client, block);
  first_and_last_block_work(client, info);
  buffers_scatter_and_gather(client, block);
  misaligned_buffers_work(client, block);
  zeroes_are_read_back(client, info);
  discard_leaves_the_rest(client, info);
  CHECK(client.flush() == 0);
  many_at_once_come_back_once(device, client, thread);
}

}  // namespace plumb::conformance
