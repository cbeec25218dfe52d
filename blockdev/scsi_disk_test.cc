#include "blockdev/scsi_disk.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <optional>

#include "base/endian.h"
#include "tests/fakes/scsi_client.h"
#include "tests/fakes/stubborn_device.h"

namespace plumb {
namespace {

constexpr uint32_t kBlocks = 256;

struct Fixture {
  explicit Fixture(bool read_only = false, CacheMode cache = CacheMode::kWritethrough) {
    BlockInfo info;
    info.size_bytes = kBlocks * 512;
    info.physical_block_size = 4096;
    info.memory_alignment = 1;
    info.read_only = read_only;
    info.discard_granularity = 4096;
    if (!read_only) info.max_discard_bytes = info.max_write_zeroes_bytes = 64U << 10U;
    auto made = std::make_unique<StubbornDevice>(info, *thread);
    device = made.get();
    disk.emplace(Disk::Config{.id = "data", .cache = cache}, std::move(made), *thread);
    lun.emplace(*disk, ScsiIdentity{.vendor = "PLUMB",
                                    .product = "VIRTUAL DISK",
                                    .revision = "0001",
                                    .serial = "serial-1",
                                    .naa = {}});
    client.emplace(*lun);
    TestCommand first{0x00};
    CHECK(client->run(first).told() == sense::kPowerOn);
  }
  ScsiSense sense_of(std::initializer_list<unsigned> cdb) {
    TestCommand command(cdb);
    return client->run(command.takes(512)).told();
  }
  std::vector<uint8_t> answer(std::initializer_list<unsigned> cdb, size_t room = 4096) {
    TestCommand command(cdb);
    client->run(command.takes(room));
    CHECK(command.status == ScsiStatus::kGood);
    return command.came();
  }
  std::vector<uint8_t> content(uint32_t lba) {
    const std::byte* at = device->memory.bytes().data() + lba * 512;
    const auto* bytes = reinterpret_cast<const uint8_t*>(at);
    return {bytes, bytes + 512};
  }

  std::unique_ptr<IoThread> thread =
      IoThread::start({.name = "io-test", .engine = EngineKind::kAuto, .cpus = {}, .decorate = {}})
          .value();
  StubbornDevice* device = nullptr;
  std::optional<Disk> disk;
  std::optional<ScsiDisk> lun;
  std::optional<ScsiClient> client;
};

std::vector<uint8_t> blocks_of(uint8_t value, size_t count) {
  return std::vector<uint8_t>(count * 512, value);
}

}  // namespace

TEST_CASE("scsi: what is written is read, by commands of every length") {
  Fixture fixture;
  TestCommand write6{0x0a, 0, 0, 1, 2};
  TestCommand write10{0x2a, 0x08, 0, 0, 0, 3, 0, 0, 2};
  TestCommand write12{0xaa, 0, 0, 0, 0, 5, 0, 0, 0, 2};
  TestCommand write16{0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2};
  uint8_t value = 1;
  for (TestCommand* write : {&write6, &write10, &write12, &write16}) {
    fixture.client->run(write->sends(blocks_of(value++, 2)));
    CHECK(write->status == ScsiStatus::kGood);
    CHECK(write->moved_bytes == 1024);
  }
  CHECK(fixture.content(0) == blocks_of(0, 1));
  CHECK(fixture.answer({0x08, 0, 0, 1, 2}) == blocks_of(1, 2));
  CHECK(fixture.answer({0x28, 0, 0, 0, 0, 3, 0, 0, 2}) == blocks_of(2, 2));
  CHECK(fixture.answer({0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 2}) == blocks_of(3, 2));
  CHECK(fixture.answer({0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2}) == blocks_of(4, 2));
  CHECK(fixture.content(9) == blocks_of(0, 1));
}

TEST_CASE("scsi: a six-byte transfer of none means 256 blocks, longer ones none") {
  Fixture fixture;
  CHECK(fixture.answer({0x08, 0, 0, 0, 0}, 256 * 512).size() == 256 * 512);
  CHECK(fixture.sense_of({0x08, 0, 0, 1, 0}) == sense::kLbaOutOfRange);
  CHECK(fixture.answer({0x28, 0, 0, 0, 0, 0, 0, 0, 0}).empty());
}

TEST_CASE("scsi: nothing behind the end is read or written, and nothing wraps") {
  Fixture fixture;
  CHECK(fixture.sense_of({0x28, 0, 0, 0, 1, 0, 0, 0, 1}) == sense::kLbaOutOfRange);
  CHECK(fixture.sense_of({0x28, 0, 0, 0, 0, 255, 0, 0, 2}) == sense::kLbaOutOfRange);
  CHECK(fixture.sense_of({0x28, 0, 0, 0, 1, 0, 0, 0, 0}) == sense::kLbaOutOfRange);
  CHECK(fixture.sense_of({0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2}) ==
        sense::kLbaOutOfRange);
  CHECK(fixture.sense_of({0x91, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0}) == sense::kLbaOutOfRange);
  CHECK(fixture.device->sent.empty());
}

TEST_CASE("scsi: bits that a command does not use are refused, as are unknown commands") {
  Fixture fixture;
  CHECK(fixture.sense_of({0x28, 0x20, 0, 0, 0, 0, 0, 0, 1}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x00, 1}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x00, 0, 0, 0, 0, 4}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x9e, 0x1f}) == sense::kInvalidFieldInCdb);
  for (const unsigned code : {0x04U, 0x16U, 0x17U, 0x3bU, 0x3cU, 0x48U, 0x5eU, 0x5fU, 0x7fU, 0x83U,
                              0x84U, 0xa2U, 0xb5U, 0xffU}) {
    INFO("code " << code);
    CHECK(fixture.sense_of({code}) == sense::kInvalidOperation);
  }
}

TEST_CASE("scsi: buffers smaller than the transfer are an overrun that moves nothing") {
  Fixture fixture;
  TestCommand read{0x28, 0, 0, 0, 0, 0, 0, 0, 2};
  fixture.client->run(read.takes(1000));
  CHECK(read.overrun);
  CHECK(read.moved_bytes == 0);
  TestCommand write{0x2a, 0, 0, 0, 0, 0, 0, 0, 2};
  CHECK(fixture.client->run(write.sends(blocks_of(1, 1))).overrun);
  TestCommand same{0x41, 0, 0, 0, 0, 0, 0, 0, 2};
  CHECK(fixture.client->run(same.sends({1, 2, 3})).told() == sense::kInvalidFieldInCdb);
  TestCommand too_many{0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
  CHECK(fixture.client->run(too_many.sends(blocks_of(1, 2))).told() == sense::kInvalidFieldInCdb);
  TestCommand compare{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.client->run(compare.sends(blocks_of(0, 1))).overrun);
  CHECK(fixture.device->sent.empty());
  CHECK(fixture.content(0) == blocks_of(0, 1));
}

TEST_CASE("scsi: buffers larger than the transfer keep their rest") {
  Fixture fixture;
  TestCommand read{0x28, 0, 0, 0, 0, 0, 0, 0, 1};
  fixture.client->run(read.takes(1024));
  CHECK(read.moved_bytes == 512);
  CHECK(read.in[512] == 0xee);
  CHECK(fixture.answer({0x12, 0, 0, 0, 5}).size() == 5);
}

TEST_CASE("scsi: durability is what the disk and the command ask for") {
  Fixture cached(false, CacheMode::kWriteback);
  TestCommand plain{0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
  TestCommand fua{0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1};
  TestCommand flush{0x35};
  cached.client->run(plain.sends(blocks_of(1, 1)));
  cached.client->run(fua.sends(blocks_of(1, 1)));
  cached.client->run(flush);
  CHECK(flush.status == ScsiStatus::kGood);
  REQUIRE(cached.device->sent.size() == 3);
  CHECK(!cached.device->sent[0].durable);
  CHECK(cached.device->sent[1].durable);
  CHECK(cached.device->sent[2].op == BlockOp::kFlush);
  CHECK((cached.answer({0x1a, 0x08, 0x08, 0, 255})[4 + 2] & 4) == 4);  // WCE
  Fixture through;
  CHECK((through.answer({0x1a, 0x08, 0x08, 0, 255})[4 + 2] & 4) == 0);
}

TEST_CASE("scsi: WRITE SAME of zeroes is one operation, of others is written") {
  Fixture fixture;
  TestCommand fill{0x93, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 20};
  fixture.client->run(fill.sends(blocks_of(7, 1)));
  CHECK(fill.status == ScsiStatus::kGood);
  CHECK(fixture.content(9) == blocks_of(0, 1));
  CHECK(fixture.content(10) == blocks_of(7, 1));
  CHECK(fixture.content(29) == blocks_of(7, 1));
  CHECK(fixture.content(30) == blocks_of(0, 1));
  fixture.device->sent.clear();
  TestCommand zero{0x41, 0x08, 0, 0, 0, 10, 0, 0, 10};
  fixture.client->run(zero.sends(blocks_of(0, 1)));
  REQUIRE(fixture.device->sent.size() == 1);
  CHECK(fixture.device->sent[0].op == BlockOp::kWriteZeroes);
  CHECK(fixture.device->sent[0].may_unmap);
  CHECK(fixture.content(10) == blocks_of(0, 1));
  CHECK(fixture.content(20) == blocks_of(7, 1));
  // NDOB: no block is sent, zeroes are meant.
  TestCommand without{0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 10};
  CHECK(fixture.client->run(without).status == ScsiStatus::kGood);
  CHECK(fixture.content(29) == blocks_of(0, 1));
  CHECK(fixture.sense_of({0x41, 0, 0, 0, 0, 10, 0, 0, 0}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x41, 0, 0, 0, 0, 0, 0, 0, 129}) == sense::kInvalidFieldInCdb);
}

TEST_CASE("scsi: UNMAP discards its extents, and refuses malformed lists") {
  Fixture fixture;
  TestCommand fill{0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100};
  fixture.client->run(fill.sends(blocks_of(7, 1)));
  const auto list = [](std::vector<std::pair<uint64_t, uint32_t>> extents) {
    std::vector<uint8_t> bytes(8 + 16 * extents.size());
    store_be(&bytes[0], static_cast<uint16_t>(bytes.size() - 2));
    store_be(&bytes[2], static_cast<uint16_t>(bytes.size() - 8));
    for (size_t i = 0; i < extents.size(); ++i) {
      store_be(&bytes[8 + 16 * i], extents[i].first);
      store_be(&bytes[16 + 16 * i], extents[i].second);
    }
    return bytes;
  };
  const auto unmap = [&](std::vector<uint8_t> bytes, unsigned told) {
    TestCommand command{0x42, 0, 0, 0, 0, 0, 0, 0, told};
    return fixture.client->run(command.sends(std::move(bytes))).told();
  };
  fixture.device->sent.clear();
  CHECK(unmap(list({{10, 5}, {20, 0}, {30, 5}}), 56) == sense::kNone);
  CHECK(fixture.device->sent.size() == 2);
  CHECK(fixture.content(9) == blocks_of(7, 1));
  CHECK(fixture.content(10) == blocks_of(0, 1));
  CHECK(fixture.content(34) == blocks_of(0, 1));
  fixture.device->sent.clear();
  CHECK(unmap(list({}), 8) == sense::kNone);
  CHECK(unmap({}, 0) == sense::kNone);
  CHECK(unmap(list({{10, 5}}), 20) == sense::kParameterListLength);
  CHECK(unmap({0, 0, 0, 0}, 4) == sense::kParameterListLength);
  CHECK(unmap({0, 0, 0, 0}, 24) == sense::kParameterListLength);
  CHECK(unmap(list({{250, 7}}), 24) == sense::kLbaOutOfRange);
  CHECK(unmap(list({{UINT64_MAX, 2}}), 24) == sense::kLbaOutOfRange);
  CHECK(unmap(list({{0, 100}, {100, 100}}), 40) == sense::kInvalidParameter);
  CHECK(fixture.device->sent.empty());
}

TEST_CASE("scsi: COMPARE AND WRITE writes only what was as expected") {
  Fixture fixture;
  std::vector<uint8_t> data = blocks_of(0, 1);
  const std::vector<uint8_t> after = blocks_of(9, 1);
  data.insert(data.end(), after.begin(), after.end());
  TestCommand good{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1};
  CHECK(fixture.client->run(good.sends(data)).status == ScsiStatus::kGood);
  CHECK(fixture.content(4) == blocks_of(9, 1));
  TestCommand wrapped{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0};
  CHECK(fixture.client->run(wrapped.sends(blocks_of(0, 512))).told() == sense::kInvalidFieldInCdb);
  TestCommand late{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1};
  CHECK(fixture.client->run(late.sends(data)).told() == sense::kMiscompare);
  CHECK(fixture.sense_of({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 9}) ==
        sense::kInvalidFieldInCdb);
}

TEST_CASE("scsi: a command that must be alone waits, and is not overtaken") {
  Fixture fixture;
  std::vector<uint8_t> data = blocks_of(1, 1);
  const std::vector<uint8_t> after = blocks_of(2, 1);
  data.insert(data.end(), after.begin(), after.end());
  fixture.thread->run([&] { fixture.device->keep = true; });
  TestCommand before{0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
  TestCommand compare{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  TestCommand behind{0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
  TestCommand taken_back{0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
  fixture.client->send(before.sends(blocks_of(1, 1)));
  fixture.client->send(compare.sends(data));
  fixture.client->send(behind.sends(blocks_of(3, 1)));
  fixture.client->send(taken_back.sends(blocks_of(4, 1)));
  fixture.thread->run([&] {
    CHECK(fixture.device->sent.size() == 1);
    CHECK(fixture.lun->withdraw(taken_back));
    CHECK(!fixture.lun->withdraw(before));
    fixture.device->let_go();
  });
  fixture.client->wait(before);
  fixture.client->wait(compare);
  fixture.client->wait(behind);
  CHECK(compare.status == ScsiStatus::kGood);
  CHECK(fixture.content(0) == blocks_of(3, 1));
  CHECK(taken_back.calls == 0);
}

TEST_CASE("scsi: VERIFY compares with what was sent, or reads only") {
  Fixture fixture;
  TestCommand write{0x2e, 0, 0, 0, 0, 1, 0, 0, 2};
  CHECK(fixture.client->run(write.sends(blocks_of(5, 2))).status == ScsiStatus::kGood);
  CHECK(fixture.device->sent.front().durable);
  TestCommand same{0x2f, 0x02, 0, 0, 0, 1, 0, 0, 2};
  CHECK(fixture.client->run(same.sends(blocks_of(5, 2))).status == ScsiStatus::kGood);
  TestCommand other{0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2};
  CHECK(fixture.client->run(other.sends(blocks_of(6, 2))).told() == sense::kMiscompare);
  TestCommand reads{0x2f, 0, 0, 0, 0, 0, 0, 1, 0};
  CHECK(fixture.client->run(reads).status == ScsiStatus::kGood);
  fixture.thread->run([&] { fixture.device->error = ENODATA; });
  TestCommand bad{0x2f, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.client->run(bad).told() == sense::kReadError);
}

TEST_CASE("scsi: errors of the medium reach the guest as what they are") {
  Fixture fixture;
  const auto told = [&](int error, unsigned code) {
    fixture.thread->run([&] { fixture.device->error = error; });
    TestCommand command{code, 0, 0, 0, 0, 0, 0, 0, 1};
    fixture.client->run(command.sends(blocks_of(0, 1)).takes(512));
    CHECK(command.moved_bytes == 0);
    return std::pair(command.status, command.told());
  };
  using Told = std::pair<ScsiStatus, ScsiSense>;
  CHECK(told(EBADE, 0x2a) == Told{ScsiStatus::kReservationConflict, sense::kNone});
  CHECK(told(ENOMEM, 0x2a) == Told{ScsiStatus::kBusy, sense::kNone});
  CHECK(told(ENODATA, 0x28) == Told{ScsiStatus::kCheckCondition, sense::kReadError});
  CHECK(told(ENODATA, 0x2a) == Told{ScsiStatus::kCheckCondition, sense::kWriteError});
  CHECK(told(ENOSPC, 0x2a) == Told{ScsiStatus::kCheckCondition, sense::kSpaceAllocationFailed});
  CHECK(told(EREMOTEIO, 0x2a) == Told{ScsiStatus::kCheckCondition, sense::kTargetFailure});
  CHECK(told(EIO, 0x28) == Told{ScsiStatus::kCheckCondition, sense::kIoTerminated});
}

TEST_CASE("scsi: a read-only disk says so and takes no write") {
  Fixture fixture(true);
  CHECK((fixture.answer({0x1a, 0x08, 0x3f, 0, 255})[2] & 0x80) == 0x80);
  TestCommand write{0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.client->run(write.sends(blocks_of(1, 1))).told() == sense::kWriteProtected);
  CHECK(fixture.sense_of({0x42}) == sense::kInvalidOperation);
}

TEST_CASE("scsi: a reset is told once, as is a new capacity") {
  Fixture fixture;
  fixture.thread->run([&] { fixture.lun->reset(); });
  CHECK(fixture.answer({0x12, 0, 0, 0, 36}).size() == 36);  // INQUIRY is not held up
  CHECK(fixture.sense_of({0x00}) == sense::kDeviceReset);
  CHECK(fixture.sense_of({0x00}) == sense::kNone);
  const std::vector<uint8_t> nothing = fixture.answer({0x03, 0, 0, 0, 18});
  CHECK((nothing[2] & 0x0f) == 0);
}

TEST_CASE("scsi: the answers say what the disk is") {
  Fixture fixture;
  CHECK(load_be<uint32_t>(fixture.answer({0x25}).data()) == kBlocks - 1);
  const auto capacity = fixture.answer({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32});
  REQUIRE(capacity.size() == 32);
  CHECK(load_be<uint64_t>(capacity.data()) == kBlocks - 1);
  CHECK(capacity[13] == 3);           // eight blocks are a physical one
  CHECK((capacity[14] & 0x80) != 0);  // LBPME
  const auto serial = fixture.answer({0x12, 1, 0x80, 0, 255});
  CHECK(std::string(serial.begin() + 4, serial.end()) == "serial-1");
  const auto limits = fixture.answer({0x12, 1, 0xb0, 0, 255});
  REQUIRE(limits.size() == 64);
  CHECK(load_be<uint32_t>(&limits[20]) == (64U << 10U) / 512);
  const auto pages = fixture.answer({0x12, 1, 0x00, 0, 255});
  for (size_t i = 4; i < pages.size(); ++i) {
    INFO("page " << int{pages[i]});
    const auto page = fixture.answer({0x12, 1, pages[i], 0, 255});
    CHECK(page[1] == pages[i]);
    CHECK(load_be<uint16_t>(&page[2]) == page.size() - 4);
  }
  CHECK(fixture.sense_of({0x12, 1, 0x85, 0, 255}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x12, 0, 0x80, 0, 255}) == sense::kInvalidFieldInCdb);
  CHECK(load_be<uint32_t>(fixture.answer({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16}).data()) == 8);
}

TEST_CASE("scsi: mode pages: current values are accepted back, others are not") {
  Fixture fixture;
  const std::vector<uint8_t> all = fixture.answer({0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0});
  CHECK(load_be<uint16_t>(all.data()) == all.size() - 2);
  const auto select = [&](std::vector<uint8_t> parameters) {
    TestCommand command{0x55, 0x10, 0, 0, 0, 0, 0, 0, static_cast<unsigned>(parameters.size())};
    return fixture.client->run(command.sends(std::move(parameters))).told();
  };
  CHECK(select(all) == sense::kNone);
  std::vector<uint8_t> other = all;
  other.back() ^= 1;
  CHECK(select(other) == sense::kInvalidParameter);
  CHECK(select({all.begin(), all.end() - 1}) == sense::kParameterListLength);
  CHECK(select({0, 0, 0}) == sense::kParameterListLength);
  other = all;
  other[7] = 9;  // length of the block descriptors
  CHECK(select(other) == sense::kInvalidParameter);
  CHECK(fixture.sense_of({0x1a, 0, 0xc8, 0, 255}) == sense::kSavingNotSupported);
  CHECK(fixture.sense_of({0x1a, 0, 0x3e, 0, 255}) == sense::kInvalidFieldInCdb);
  CHECK(fixture.sense_of({0x1a, 0, 0x08, 1, 255}) == sense::kInvalidFieldInCdb);
}

TEST_CASE("scsi: REPORT SUPPORTED OPERATION CODES agrees with what is taken") {
  Fixture fixture;
  const auto report = [&](unsigned option, unsigned code, unsigned action = 0) {
    TestCommand command{0xa3, 0x0c, option, code, 0, action, 0, 0, 16, 0};
    fixture.client->run(command.takes(4096));
    return command.told() == sense::kNone ? command.came() : std::vector<uint8_t>();
  };
  CHECK(report(1, 0x28)[1] == 0x03);
  CHECK(report(1, 0x04)[1] == 0x01);
  CHECK(report(2, 0x9e, 0x10)[1] == 0x03);
  CHECK(report(2, 0x9e, 0x11)[1] == 0x01);
  CHECK(report(1, 0x9e).empty());
  CHECK(report(2, 0x28).empty());
  CHECK(report(4, 0x28).empty());
  const std::vector<uint8_t> all = report(0x80, 0);
  REQUIRE(all.size() == 4 + load_be<uint32_t>(all.data()));
  CHECK((all.size() - 4) % 20 == 0);
  for (size_t at = 4; at < all.size(); at += 20) {
    INFO("code " << int{all[at]});
    CHECK(fixture.sense_of({all[at], all[at + 3]}) != sense::kInvalidOperation);
    CHECK((all[at + 5] & 0x02) != 0);
  }
}

}  // namespace plumb
