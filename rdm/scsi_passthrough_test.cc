#include "rdm/scsi_passthrough.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <optional>

#include "rdm/fake_lun.h"
#include "tests/fakes/scsi_client.h"
#include "tests/fakes/stubborn_device.h"

namespace plumb {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint32_t kBlocks = 256;
constexpr uint64_t kLimit = 64U << 10U;

struct Options {
  bool read_only = false;
  bool volatile_cache = false;
  CacheMode cache = CacheMode::kWritethrough;
  ErrorPolicy on_error = ErrorPolicy::kReport;
  bool fua = true;
};

struct Fixture {
  explicit Fixture(const Options& options = {}) {
    BlockInfo info;
    info.size_bytes = kBlocks * 512;
    info.read_only = options.read_only;
    info.volatile_cache = options.volatile_cache;
    auto made = std::make_unique<StubbornDevice>(info, *thread);
    device = made.get();
    disk.emplace(Disk::Config{.id = "data",
                              .cache = options.cache,
                              .on_error = options.on_error,
                              .failed = [this](const DiskError&) { failed.release(); }},
                 std::move(made), *thread);
    lun.emplace(*disk, target, *workers,
                ScsiPassthrough::Config{.max_transfer_bytes = kLimit, .fua = options.fua});
    client.emplace(*lun);
    TestCommand first{0x00};
    CHECK(client->run(first).told() == sense::kPowerOn);
  }
  TestCommand& run(TestCommand& command) { return client->run(command); }
  std::vector<BlockOp> at_device() {
    std::vector<BlockOp> ops;
    for (const auto& sent : device->sent) ops.push_back(sent.op);
    return ops;
  }
  void on_thread(std::function<void()> act) { thread->run(std::move(act)); }

  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-test", .cpus = {}}).value();
  std::unique_ptr<WorkerThreads> workers =
      WorkerThreads::start({.name = "lun", .threads = 2, .at_start = {}}).value();
  FakeLun target;
  StubbornDevice* device = nullptr;
  std::counting_semaphore<> failed{0};
  std::optional<Disk> disk;
  std::optional<ScsiPassthrough> lun;
  std::optional<ScsiClient> client;
};

Bytes blocks_of(uint8_t value, size_t count) { return Bytes(count * 512, value); }

constexpr std::initializer_list<unsigned> kWriteSame{0x41, 0, 0, 0, 0, 1, 0, 0, 2, 0};
constexpr std::initializer_list<unsigned> kCompareAndWrite{0x89, 0, 0, 0, 0, 0, 0,
                                                           0,    0, 0, 0, 0, 0, 1};

}  // namespace

TEST_CASE("physical: plain reads, writes and flushes go to the disk") {
  Fixture fixture;
  TestCommand write{0x2a, 0, 0, 0, 0, 3, 0, 0, 2};
  CHECK(fixture.run(write.sends(blocks_of(7, 2))).status == ScsiStatus::kGood);
  CHECK(write.moved_bytes == 1024);
  TestCommand read{0x88, 0x10, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2};
  CHECK(fixture.run(read.takes(1024)).came() == blocks_of(7, 2));
  TestCommand flush{0x91};
  CHECK(fixture.run(flush).status == ScsiStatus::kGood);
  CHECK(fixture.at_device() ==
        std::vector<BlockOp>{BlockOp::kWrite, BlockOp::kRead, BlockOp::kFlush});
  CHECK(fixture.device->sent[0].durable);
  CHECK(fixture.target.sent().empty());
}

TEST_CASE("physical: about other forms of them the LUN is asked") {
  Fixture fixture;
  fixture.target.answers(
      [](LunCommand& command) { return FakeLun::check(command, sense::kLbaOutOfRange); });
  TestCommand forced{0x28, 0x08, 0, 0, 0, 3, 0, 0, 2};
  TestCommand behind{0x28, 0, 0, 0, 1, 0, 0, 0, 1};
  TestCommand none{0x28, 0, 0, 0, 0, 3, 0, 0, 0};
  TestCommand old{0x08, 0xe0, 0, 1, 1};
  for (TestCommand* command : {&forced, &behind, &none, &old}) {
    CHECK(fixture.run(command->takes(1024)).told() == sense::kLbaOutOfRange);
  }
  TestCommand write{0x2a, 0, 0, 0, 1, 0, 0, 0, 1};
  CHECK(fixture.run(write.sends(blocks_of(1, 1))).told() == sense::kLbaOutOfRange);
  TestCommand flush{0x35, 0, 0, 0, 1, 0, 0, 0, 1};
  CHECK(fixture.run(flush).told() == sense::kLbaOutOfRange);
  CHECK(fixture.device->sent.empty());
  const auto sent = fixture.target.sent();
  REQUIRE(sent.size() == 6);
  CHECK(sent[0].cdb == Bytes{0x28, 0x08, 0, 0, 0, 3, 0, 0, 2, 0});
  CHECK(sent[0].data.size() == 1024);
  CHECK(sent[4].data == blocks_of(1, 1));
}

TEST_CASE("physical: a LUN without FUA and DPO is asked about them") {
  Fixture fixture({.fua = false});
  fixture.target.answers(
      [](LunCommand& command) { return FakeLun::check(command, sense::kInvalidFieldInCdb); });
  TestCommand hinted{0x28, 0x10, 0, 0, 0, 3, 0, 0, 1};
  CHECK(fixture.run(hinted.takes(512)).told() == sense::kInvalidFieldInCdb);
  TestCommand forced{0x8a, 0x08, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1};
  CHECK(fixture.run(forced.sends(blocks_of(1, 1))).told() == sense::kInvalidFieldInCdb);
  CHECK(fixture.device->sent.empty());
  // In six bytes these bits are of the address.
  TestCommand old{0x08, 0x18, 0, 0, 1};
  fixture.run(old.takes(512));
  CHECK(fixture.target.sent().size() == 3);  // behind the end
  TestCommand with_fua{0x2a, 0x18, 0, 0, 0, 3, 0, 0, 1};
  Fixture other;
  CHECK(other.run(with_fua.sends(blocks_of(1, 1))).status == ScsiStatus::kGood);
  CHECK(other.target.sent().empty());
}

TEST_CASE("physical: what the policy denies never reaches the LUN or the disk") {
  for (const bool read_only : {false, true}) {
    Fixture fixture({.read_only = read_only});
    for (unsigned code = 0; code < 256; ++code) {
      TestCommand command{code, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
      const CdbVerdict verdict = judge_cdb(command.cdb, read_only);
      if (verdict.what != CdbClass::kDeny) continue;
      INFO("operation code " << code);
      CHECK(fixture.run(command.sends(Bytes(24, 0))).told() == verdict.sense);
    }
    CHECK(fixture.target.sent().empty());
    CHECK(fixture.device->sent.empty());
  }
}

TEST_CASE("physical: the LUN's answer reaches the guest, cut to what it asked for") {
  Fixture fixture;
  fixture.target.answers([](LunCommand& command) {
    Bytes inquiry(36, 'x');
    inquiry[5] = 0x30;  // TPGS
    return FakeLun::fill(command, inquiry);
  });
  TestCommand inquiry{0x12, 0, 0, 0, 255, 0};
  fixture.run(inquiry.takes(255));
  CHECK(inquiry.status == ScsiStatus::kGood);
  REQUIRE(inquiry.came().size() == 36);
  CHECK(inquiry.came()[5] == 0);
  CHECK(inquiry.in[36] == 0xee);
  // Buffers smaller than the allocation length: the LUN still has room for all of that.
  TestCommand narrow{0x12, 0, 0, 0, 255, 0};
  CHECK(fixture.run(narrow.takes(10)).came().size() == 10);
  const auto sent = fixture.target.sent();
  CHECK(sent[1].cdb == Bytes{0x12, 0, 0, 0, 255, 0});
  CHECK(sent[1].data == Bytes(255, 0));  // nothing of our memory
}

TEST_CASE("physical: an allocation length beyond what can be moved is made smaller") {
  Fixture fixture;
  TestCommand status{0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0};
  fixture.run(status.takes(64));
  const auto sent = fixture.target.sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].data.size() == kLimit);
  CHECK(Bytes(sent[0].cdb.begin() + 10, sent[0].cdb.begin() + 14) == Bytes{0, 1, 0, 0});
}

TEST_CASE("physical: operation codes are asked for whole, whatever room the guest has") {
  Fixture fixture;
  fixture.target.answers([](LunCommand& command) {
    return FakeLun::fill(command, {0,    0, 0, 16, 0x04, 0, 0, 0, 0, 0, 0, 6,  //
                                   0x28, 0, 0, 0,  0,    0, 0, 10});
  });
  TestCommand length{0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 4};
  CHECK(fixture.run(length.takes(4)).came() == Bytes{0, 0, 0, 8});
  TestCommand all{0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 64};
  CHECK(fixture.run(all.takes(64)).came() == Bytes{0, 0, 0, 8, 0x28, 0, 0, 0, 0, 0, 0, 10});
}

TEST_CASE("physical: sense data, status and residual are the LUN's") {
  Fixture fixture;
  fixture.target.answers([](LunCommand& command) {
    return FakeLun::check(command, {6, 0x3f, 0x0e});
  });
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).told() == ScsiSense{6, 0x3f, 0x0e});
  fixture.target.answers([](LunCommand& command) {
    command.status = static_cast<ScsiStatus>(0x28);  // TASK SET FULL
    command.moved_bytes = 0;
    return 0;
  });
  TestCommand verify{0x2f, 0x02, 0, 0, 0, 0, 0, 0, 1};
  fixture.run(verify.sends(blocks_of(1, 1)));
  CHECK(static_cast<unsigned>(verify.status) == 0x28);
  CHECK(verify.sense_bytes == 0);
  CHECK(verify.moved_bytes == 0);
}

TEST_CASE("physical: buffers that do not fit the CDB move nothing") {
  Fixture fixture;
  TestCommand same{0x41, 0, 0, 0, 0, 1, 0, 0, 2};
  CHECK(fixture.run(same.sends(Bytes(100, 1))).overrun);
  TestCommand unmap{0x42, 0, 0, 0, 0, 0, 0, 0, 24};
  CHECK(fixture.run(unmap.sends(Bytes(8, 0))).overrun);
  TestCommand wrong_way{0x28, 0x08, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.run(wrong_way.sends(blocks_of(1, 1))).overrun);
  TestCommand much{0x2e, 0, 0, 0, 0, 0, 0, 0, 0x81};  // 64.5 KiB
  CHECK(fixture.run(much.sends(blocks_of(1, 0x81))).told() == sense::kInvalidFieldInCdb);
  CHECK(fixture.target.sent().empty());
}

TEST_CASE("physical: in writethrough mode a change is flushed before it ends") {
  Fixture fixture({.volatile_cache = true});
  fixture.target.keep(true);
  TestCommand same(kWriteSame);
  fixture.client->send(same.sends(blocks_of(1, 1)));
  fixture.target.wait_for(1);
  CHECK(same.calls == 0);
  fixture.target.keep(false);
  fixture.client->wait(same);
  CHECK(fixture.target.codes() == Bytes{0x41, 0x35});
  CHECK(same.status == ScsiStatus::kGood);
  CHECK(same.moved_bytes == 512);
  // What answers only is not.
  TestCommand verify{0x2f, 0, 0, 0, 0, 0, 0, 0, 1};
  fixture.run(verify);
  CHECK(fixture.target.codes() == Bytes{0x41, 0x35, 0x2f});
  // The flush that fails is the answer.
  fixture.target.answers([](LunCommand& command) {
    return command.cdb[0] == 0x35 ? FakeLun::check(command, sense::kWriteError) : 0;
  });
  TestCommand lost(kWriteSame);
  CHECK(fixture.run(lost.sends(blocks_of(1, 1))).told() == sense::kWriteError);
}

TEST_CASE("physical: no flush where it was not asked for, or there is nothing to flush") {
  for (const Options& options : {Options{.volatile_cache = true, .cache = CacheMode::kWriteback},
                                 Options{.volatile_cache = false}}) {
    Fixture fixture(options);
    TestCommand same(kWriteSame);
    fixture.run(same.sends(blocks_of(1, 1)));
    CHECK(fixture.target.codes() == Bytes{0x41});
  }
}

TEST_CASE("physical: a unit attention met by the flush is the next command's, and the flush goes") {
  Fixture fixture({.volatile_cache = true});
  bool told = false;
  fixture.target.answers([&told](LunCommand& command) {
    if (command.cdb[0] != 0x35 || std::exchange(told, true)) return 0;
    return FakeLun::check(command, {6, 0x2a, 0x01});
  });
  TestCommand compare(kCompareAndWrite);
  CHECK(fixture.run(compare.sends(blocks_of(1, 2))).status == ScsiStatus::kGood);
  CHECK(fixture.target.codes() == Bytes{0x89, 0x35, 0x35});
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).told() == ScsiSense{6, 0x2a, 0x01});
}

TEST_CASE("physical: a change waits while the disk is held, and a hold for a change") {
  Fixture fixture;
  fixture.target.keep(true);
  TestCommand first(kWriteSame);
  fixture.client->send(first.sends(blocks_of(1, 1)));
  fixture.target.wait_for(1);
  std::binary_semaphore drained{0};
  fixture.on_thread([&] { fixture.disk->hold(kForever, [&](Result<>) { drained.release(); }); });
  TestCommand second(kWriteSame);
  fixture.client->send(second.sends(blocks_of(1, 1)));
  fixture.on_thread([] {});
  CHECK_FALSE(drained.try_acquire());
  fixture.target.keep(false);
  drained.acquire();
  fixture.client->wait(first);
  CHECK(fixture.target.codes() == Bytes{0x41});
  // What changes nothing goes on.
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).status == ScsiStatus::kGood);
  CHECK(second.calls == 0);
  fixture.on_thread([&] { fixture.disk->release(); });
  fixture.client->wait(second);
  CHECK(fixture.target.codes() == Bytes{0x41, 0x00, 0x41});
}

TEST_CASE("physical: without a way to the LUN a change waits, if that is the disk's policy") {
  Fixture fixture({.on_error = ErrorPolicy::kPause});
  fixture.target.answers([](LunCommand&) { return ENODEV; });
  TestCommand same(kWriteSame);
  fixture.client->send(same.sends(blocks_of(1, 1)));
  fixture.failed.acquire();
  fixture.on_thread([&] { CHECK(fixture.disk->stopped()); });
  CHECK(same.calls == 0);
  fixture.target.answers({});
  fixture.on_thread([&] { fixture.disk->retry(); });
  fixture.client->wait(same);
  CHECK(same.status == ScsiStatus::kGood);
  CHECK(same.sense_bytes == 0);
  CHECK(fixture.target.codes() == Bytes{0x41, 0x41});
}

TEST_CASE("physical: COMPARE AND WRITE is never sent twice") {
  Fixture fixture({.on_error = ErrorPolicy::kPause});
  fixture.target.answers([](LunCommand&) { return ETIMEDOUT; });
  TestCommand compare(kCompareAndWrite);
  CHECK(fixture.run(compare.sends(blocks_of(1, 2))).told() == sense::kIoTerminated);
  CHECK(fixture.target.codes() == Bytes{0x89});
}

TEST_CASE("physical: what the kernel does not let pass is a command that there is not") {
  Fixture fixture({.on_error = ErrorPolicy::kPause});
  fixture.target.answers([](LunCommand&) { return EPERM; });
  TestCommand compare(kCompareAndWrite);
  CHECK(fixture.run(compare.sends(blocks_of(1, 2))).told() == sense::kInvalidOperation);
  TestCommand verify{0x2f, 0, 0, 0, 0, 0, 0, 0, 1};
  CHECK(fixture.run(verify).told() == sense::kInvalidOperation);
}

TEST_CASE("physical: an error on the way ends what only answers") {
  Fixture fixture({.on_error = ErrorPolicy::kPause});
  fixture.target.answers([](LunCommand& command) { return command.cdb[0] == 0x00 ? EIO : ENOMEM; });
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).told() == sense::kIoTerminated);
  TestCommand capacity{0x25};
  CHECK(fixture.run(capacity.takes(8)).status == ScsiStatus::kBusy);
}

TEST_CASE("physical: commands that wait here can be taken back, those at the LUN cannot") {
  Fixture fixture;
  fixture.target.keep(true);
  TestCommand running[2] = {TestCommand({0x00}), TestCommand({0x00})};  // both threads
  for (TestCommand& command : running) fixture.client->send(command);
  fixture.target.wait_for(2);
  TestCommand waiting{0x00};
  fixture.client->send(waiting);
  fixture.on_thread([&] { fixture.disk->hold(kForever, [](Result<>) {}); });
  TestCommand held(kWriteSame);
  fixture.client->send(held.sends(blocks_of(1, 1)));
  TestCommand held_write{0x2a, 0, 0, 0, 0, 3, 0, 0, 1};
  fixture.client->send(held_write.sends(blocks_of(1, 1)));
  fixture.on_thread([&] {
    CHECK(fixture.lun->withdraw(waiting));
    CHECK(fixture.lun->withdraw(held));
    CHECK(fixture.lun->withdraw(held_write));
    CHECK_FALSE(fixture.lun->withdraw(running[0]));
    fixture.disk->release();
  });
  fixture.target.keep(false);
  for (TestCommand& command : running) fixture.client->wait(command);
  CHECK(waiting.calls + held.calls + held_write.calls == 0);
  CHECK(fixture.target.codes() == Bytes{0x00, 0x00});
}

TEST_CASE("physical: what is answered here does not trouble the LUN") {
  Fixture fixture;
  TestCommand luns{0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64};
  CHECK(fixture.run(luns.takes(64)).came() ==
        Bytes{0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  TestCommand stop{0x1b};
  CHECK(fixture.run(stop).status == ScsiStatus::kGood);
  TestCommand prevent{0x1e, 0, 0, 0, 1};
  CHECK(fixture.run(prevent).status == ScsiStatus::kGood);
  TestCommand sense_data{0x03, 0, 0, 0, 252};
  CHECK(fixture.run(sense_data.takes(252)).came().at(2) == 0);
  fixture.on_thread([&] { fixture.lun->reset(); });
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).told() == sense::kDeviceReset);
  TestCommand reserve{0x5f, 1};
  CHECK(fixture.run(reserve).told() == sense::kInvalidOperation);  // none was plugged in
  CHECK(fixture.target.sent().empty());
}

TEST_CASE("physical: a LUN that has grown is told of, and its new blocks are the disk's") {
  Fixture fixture;
  std::vector<ScsiSense> told;
  fixture.lun->on_change([&](ScsiSense sense) { told.push_back(sense); });
  fixture.device->grown_bytes = 2 * kBlocks * 512;
  fixture.on_thread([&] { CHECK(fixture.disk->reread_size().ok()); });
  CHECK(told == std::vector{sense::kCapacityChanged});
  TestCommand ready{0x00};
  CHECK(fixture.run(ready).told() == sense::kCapacityChanged);
  TestCommand read{0x28, 0, 0, 0, 1, 0, 0, 0, 1};
  CHECK(fixture.run(read.takes(512)).came() == blocks_of(0, 1));
  CHECK(fixture.target.sent().empty());
}

}  // namespace plumb
