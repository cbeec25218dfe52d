#include "vmm/virtio/blk_request.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

namespace plumb {
namespace {

constexpr uint64_t kSize = 1U << 20U;

BlockInfo usual_info() {
  BlockInfo info;
  info.size_bytes = kSize;
  info.max_discard_bytes = 64U << 10U;
  info.max_write_zeroes_bytes = 128U << 10U;
  return info;
}

struct Header {
  uint32_t type = 0;
  uint32_t reserved = 0;
  uint64_t sector = 0;
};
struct Range {
  uint64_t sector = 0;
  uint32_t sectors = 0;
  uint32_t flags = 0;
};

// A chain in plain memory: add what the driver would, then parse.
struct Chain {
  std::vector<std::vector<std::byte>> memory;
  std::vector<iovec> readable;
  std::vector<iovec> writable;

  Chain& add(std::vector<iovec>& to, const void* from, size_t bytes) {
    std::vector<std::byte>& buffer = memory.emplace_back(bytes);
    if (from != nullptr) std::memcpy(buffer.data(), from, bytes);
    to.push_back({buffer.data(), bytes});
    return *this;
  }
  Chain& header(uint32_t type, uint64_t sector) {
    const Header header{.type = type, .reserved = 0, .sector = sector};
    return add(readable, &header, sizeof(header));
  }
  Chain& range(uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    const Range range{.sector = sector, .sectors = sectors, .flags = flags};
    return add(readable, &range, sizeof(range));
  }
  Chain& out(size_t bytes) { return add(readable, nullptr, bytes); }
  Chain& in(size_t bytes) { return add(writable, nullptr, bytes); }
  Chain& status() { return in(1); }
  BlkRequest parse(const BlockInfo& info = usual_info()) {
    return parse_blk_request(readable, writable, info);
  }
};

void check_rejected(const BlkRequest& request, uint8_t verdict = kBlkIoError) {
  CHECK(request.action == BlkAction::kReject);
  CHECK(request.verdict == verdict);
}

}  // namespace

TEST_CASE("a read names its place, its buffers and its status") {
  Chain chain;
  chain.header(0, 8).in(4096).in(512).status();
  const BlkRequest request = chain.parse();
  CHECK(request.action == BlkAction::kTransfer);
  CHECK(request.op == BlockOp::kRead);
  CHECK(request.offset == 4096);
  CHECK(request.length == 4608);
  CHECK(request.data.size() == 2);
  CHECK(request.status == chain.memory[3].data());
  CHECK(request.writable_bytes == 4609);
}

TEST_CASE("a write names its place and its buffers") {
  Chain chain;
  chain.header(1, 2047).out(512).status();
  const BlkRequest request = chain.parse();
  CHECK(request.action == BlkAction::kTransfer);
  CHECK(request.op == BlockOp::kWrite);
  CHECK(request.offset == kSize - 512);
  CHECK(request.length == 512);
}

TEST_CASE("framing does not matter: header and data in one buffer, or in many") {
  {
    Chain chain;  // header and data together, data and status together
    const Header header{.type = 1, .reserved = 0, .sector = 3};
    std::vector<std::byte> all(16 + 1024);
    std::memcpy(all.data(), &header, sizeof(header));
    chain.add(chain.readable, all.data(), all.size()).status();
    const BlkRequest request = chain.parse();
    CHECK(request.action == BlkAction::kTransfer);
    CHECK(request.length == 1024);
    CHECK(request.data[0].iov_base == chain.memory[0].data() + 16);
  }
  {
    Chain chain;
    chain.header(0, 3).in(513);
    const BlkRequest request = chain.parse();
    CHECK(request.action == BlkAction::kTransfer);
    CHECK(request.length == 512);
    CHECK(request.status == chain.memory[1].data() + 512);
  }
  {
    Chain chain;  // the header byte by byte
    const Header header{.type = 0, .reserved = 0, .sector = 5};
    for (size_t i = 0; i < sizeof(header); ++i) {
      chain.add(chain.readable, reinterpret_cast<const std::byte*>(&header) + i, 1);
    }
    chain.in(512).status();
    CHECK(chain.parse().offset == 5 * 512);
  }
}

TEST_CASE("flush, get-id, discard and write-zeroes are read") {
  Chain flush;
  CHECK(flush.header(4, 0).status().parse().action == BlkAction::kFlush);
  Chain id;
  const BlkRequest get_id = id.header(8, 0).in(20).status().parse();
  CHECK(get_id.action == BlkAction::kGetId);
  CHECK(get_id.data[0].iov_len == 20);
  Chain discard;
  const BlkRequest discarded = discard.header(11, 0).range(8, 16).status().parse();
  CHECK(discarded.action == BlkAction::kRange);
  CHECK(discarded.op == BlockOp::kDiscard);
  CHECK(discarded.offset == 4096);
  CHECK(discarded.length == 8192);
  for (const uint32_t unmap : {0U, 1U}) {
    Chain zero;
    const BlkRequest zeroed = zero.header(13, 0).range(0, 256, unmap).status().parse();
    CHECK(zeroed.action == BlkAction::kRange);
    CHECK(zeroed.op == BlockOp::kWriteZeroes);
    CHECK(zeroed.may_unmap == (unmap == 1));
  }
}

// --- What a driver must not do ---

TEST_CASE("CVE-2011-1750: a length that is no multiple of a block is an I/O error") {
  for (const size_t bytes : {1U, 511U, 513U, 1000U}) {
    Chain read;
    check_rejected(read.header(0, 0).in(bytes).status().parse());
    Chain write;
    check_rejected(write.header(1, 0).out(bytes).status().parse());
  }
  Chain nothing_to_read;
  check_rejected(nothing_to_read.header(0, 0).status().parse());
  Chain nothing_to_write;
  check_rejected(nothing_to_write.header(1, 0).status().parse());
}

TEST_CASE("4096-byte blocks: smaller or misplaced requests are I/O errors") {
  BlockInfo info = usual_info();
  info.logical_block_size = 4096;
  Chain good;
  CHECK(good.header(0, 8).in(4096).status().parse(info).action == BlkAction::kTransfer);
  Chain small;
  check_rejected(small.header(0, 8).in(512).status().parse(info));
  Chain misplaced;
  check_rejected(misplaced.header(0, 1).in(4096).status().parse(info));
  Chain range;
  check_rejected(range.header(11, 0).range(8, 1).status().parse(info));
}

TEST_CASE("CH #8388, OpenVMM #4046: sectors that wrap or end beyond the device are I/O errors") {
  const uint64_t last = kSize / 512;
  for (const uint64_t sector :
       {last, last - 1, last + 1, uint64_t{1} << 55U, (uint64_t{1} << 55U) - 1, ~uint64_t{0},
        ~uint64_t{0} >> 9U, (~uint64_t{0} >> 9U) + 1}) {
    Chain read;
    check_rejected(read.header(0, sector).in(1024).status().parse());
    Chain write;
    check_rejected(write.header(1, sector).out(1024).status().parse());
    Chain discard;
    check_rejected(discard.header(11, 0).range(sector, 2).status().parse());
    Chain zero;
    check_rejected(zero.header(13, 0).range(sector, 2).status().parse());
  }
  for (const uint32_t sectors : {0U, 129U, 0x7fffffU, 0x800000U, 0xffffffffU}) {
    Chain discard;
    check_rejected(discard.header(11, 0).range(0, sectors).status().parse());
  }
}

TEST_CASE("CVE-2026-48914: SCSI commands and unknown types are unsupported, whatever they carry") {
  for (const uint32_t type :
       {2U, 3U, 5U, 6U, 7U, 9U, 10U, 12U, 14U, 15U, 16U, 17U, 24U, 26U, 0x80000000U, 0xffffffffU}) {
    Chain bare;
    check_rejected(bare.header(type, 0).status().parse(), kBlkUnsupported);
    Chain loaded;
    check_rejected(loaded.header(type, 0).out(6).in(96).in(16).status().parse(), kBlkUnsupported);
  }
}

TEST_CASE("discard and write-zeroes with flags that are not allowed are unsupported") {
  for (const uint32_t flags : {1U, 2U, 0x80000000U}) {
    Chain discard;
    check_rejected(discard.header(11, 0).range(0, 8, flags).status().parse(), kBlkUnsupported);
  }
  for (const uint32_t flags : {2U, 3U, 0x80000000U}) {
    Chain zero;
    check_rejected(zero.header(13, 0).range(0, 8, flags).status().parse(), kBlkUnsupported);
  }
}

TEST_CASE("ranges of the wrong shape are I/O errors") {
  Chain none;
  check_rejected(none.header(11, 0).status().parse());
  Chain cut;
  check_rejected(cut.header(11, 0).out(15).status().parse());
  Chain two;
  check_rejected(two.header(11, 0).range(0, 8).range(8, 8).status().parse());
  Chain one_and_a_bit;
  check_rejected(one_and_a_bit.header(13, 0).range(0, 8).out(1).status().parse());
}

TEST_CASE("what the disk does not offer is unsupported") {
  BlockInfo info = usual_info();
  info.max_discard_bytes = 0;
  info.max_write_zeroes_bytes = 0;
  Chain discard;
  check_rejected(discard.header(11, 0).range(0, 8).status().parse(info), kBlkUnsupported);
  Chain zero;
  check_rejected(zero.header(13, 0).range(0, 8).status().parse(info), kBlkUnsupported);
}

TEST_CASE("a read-only disk: every change is an I/O error") {
  BlockInfo info = usual_info();
  info.read_only = true;
  Chain write;
  check_rejected(write.header(1, 0).out(512).status().parse(info));
  Chain discard;
  check_rejected(discard.header(11, 0).range(0, 8).status().parse(info));
  Chain zero;
  check_rejected(zero.header(13, 0).range(0, 8).status().parse(info));
  Chain read;
  CHECK(read.header(0, 0).in(512).status().parse(info).action == BlkAction::kTransfer);
}

TEST_CASE("a chain without a status byte is rejected without an answer") {
  Chain empty;
  CHECK(empty.parse().status == nullptr);
  Chain header_only;
  const BlkRequest request = header_only.header(1, 0).out(512).parse();
  CHECK(request.status == nullptr);
  check_rejected(request);
}

TEST_CASE("a short or missing header is an I/O error") {
  Chain missing;
  const BlkRequest request = missing.status().parse();
  CHECK(request.status == missing.memory[0].data());
  check_rejected(request);
  Chain cut;
  check_rejected(cut.out(15).status().parse());
}

TEST_CASE("CVE-2011-3346: get-id with another length is an I/O error") {
  for (const size_t bytes : {1U, 19U, 21U, 4096U}) {
    Chain chain;
    check_rejected(chain.header(8, 0).in(bytes).status().parse());
  }
  Chain none;
  check_rejected(none.header(8, 0).status().parse());
}

TEST_CASE("data on the wrong side is an I/O error") {
  Chain read;
  check_rejected(read.header(0, 0).out(512).in(512).status().parse());
  Chain write;
  check_rejected(write.header(1, 0).out(512).in(512).status().parse());
  Chain write_as_read;
  check_rejected(write_as_read.header(1, 0).in(512).status().parse());
}

}  // namespace plumb
