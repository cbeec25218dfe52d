#include "rdm/reservation_broker.h"

#include <sys/sysmacros.h>

#include <catch2/catch.hpp>

#include "base/log.h"
#include "rdm/fake_pr_command.h"
#include "rdm/fake_reservation_kernel.h"
#include "rdm/fake_sysfs.h"

namespace plumb {
namespace {

constexpr int kFirst = 100;  // descriptors: two hosts' view of one LUN, and a map of two paths
constexpr int kSecond = 101;
constexpr int kMap = 102;
constexpr int kWriteExclusiveRegistrants = 5;

class Rig {
 public:
  Rig() : broker_(LunResolver(sysfs.roots()), kernel) {
    log::configure("test", log::Level::kNothing);
    sysfs.write("sys/dev/block/8:0/device/wwid", "naa.60014050000000000000000000000001\n");
    sysfs.write("sys/dev/block/253:0/dm/uuid", "mpath-360014050000000000000000000000001\n");
    kernel.open(kFirst, device(8, 0), {1});
    kernel.open(kSecond, device(8, 0), {2});
    kernel.open(kMap, device(253, 0), {11, 12});
  }

  static ReservationKernel::Descriptor device(unsigned major_part, unsigned minor_part) {
    return {.block_device = true,
            .readable = true,
            .writable = true,
            .number = makedev(major_part, minor_part)};
  }

  ReservationReply send(const ReservationRequest& request, int fd = kFirst) {
    return broker_.serve(request, fd, "test");
  }
  ScsiStatus out(int fd, PrOutAction action, uint64_t key, uint64_t other = 0,
                 int type = kWriteExclusiveRegistrants) {
    return send(pr_out(action, type, key, other), fd).status;
  }
  // READ KEYS: those registered.
  std::vector<uint64_t> keys(int fd = kFirst) {
    const ReservationReply reply = send(pr_in(PrInAction::kReadKeys), fd);
    REQUIRE(reply.status == ScsiStatus::kGood);
    std::vector<uint64_t> found;
    for (size_t at = 8; at + 8 <= reply.data.size(); at += 8) {
      found.push_back(load_be<uint64_t>(reply.data.data() + at));
    }
    return found;
  }

  FakeSysfs sysfs;
  FakeReservationKernel kernel;

 private:
  ReservationBroker broker_;
};

bool is_check(const ReservationReply& reply, ScsiSense code) {
  const auto sense = fixed_sense(code);
  return !reply.refused() && reply.status == ScsiStatus::kCheckCondition &&
         reply.sense == std::vector(sense.begin(), sense.end());
}

constexpr auto kGood = ScsiStatus::kGood;
constexpr auto kConflict = ScsiStatus::kReservationConflict;

}  // namespace

TEST_CASE("a registrant reserves, and others are fenced until it releases") {
  Rig rig;
  CHECK(rig.out(kFirst, PrOutAction::kReserve, 0x11) == kConflict);  // not registered
  CHECK(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  CHECK(rig.out(kFirst, PrOutAction::kReserve, 0x99) == kConflict);  // another key
  CHECK(rig.out(kFirst, PrOutAction::kReserve, 0x11) == kGood);
  CHECK(rig.kernel.target.may_write(1));
  CHECK_FALSE(rig.kernel.target.may_write(2));
  CHECK(rig.out(kSecond, PrOutAction::kRegister, 0, 0x22) == kGood);
  CHECK(rig.kernel.target.may_write(2));  // registrants only
  CHECK(rig.out(kSecond, PrOutAction::kReserve, 0x22) == kConflict);
  CHECK(rig.keys() == std::vector<uint64_t>{0x11, 0x22});
  CHECK(rig.out(kFirst, PrOutAction::kRelease, 0x11) == kGood);
}

TEST_CASE("every type of reservation reaches the LUN as itself") {
  for (const int type : {1, 3, 5, 6, 7, 8}) {
    Rig rig;
    REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
    REQUIRE(rig.out(kFirst, PrOutAction::kReserve, 0x11, 0, type) == kGood);
    const ReservationReply reply = rig.send(pr_in(PrInAction::kReadReservation));
    REQUIRE(reply.data.size() == 24);
    CHECK(std::to_integer<int>(reply.data[21]) == type);
  }
}

TEST_CASE("the victim of a preemption learns of it, and cannot go on") {
  Rig rig;
  REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  REQUIRE(rig.out(kFirst, PrOutAction::kReserve, 0x11) == kGood);
  REQUIRE(rig.out(kSecond, PrOutAction::kRegister, 0, 0x22) == kGood);
  CHECK(rig.out(kSecond, PrOutAction::kPreempt, 0x11, 0x22) == kConflict);  // keys swapped
  CHECK(rig.out(kSecond, PrOutAction::kPreempt, 0x22, 0x11) == kGood);
  CHECK(rig.keys(kSecond) == std::vector<uint64_t>{0x22});
  CHECK_FALSE(rig.kernel.target.may_write(1));
  // Its next command gets the unit attention REGISTRATIONS PREEMPTED, and is not carried out.
  rig.kernel.requests().clear();
  CHECK(is_check(rig.send(pr_out(PrOutAction::kRegister, 0, 0, 0x11)), {0x06, 0x2a, 0x05}));
  CHECK(rig.kernel.requests() == std::vector<unsigned long>{SG_IO});
  CHECK(rig.out(kFirst, PrOutAction::kReserve, 0x11) == kConflict);
}

TEST_CASE("PREEMPT AND ABORT and CLEAR do as they say") {
  Rig rig;
  REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  REQUIRE(rig.out(kSecond, PrOutAction::kRegister, 0, 0x22) == kGood);
  CHECK(rig.out(kSecond, PrOutAction::kPreemptAndAbort, 0x22, 0x11) == kGood);
  CHECK(rig.kernel.requests().back() == IOC_PR_PREEMPT_ABORT);
  CHECK(rig.out(kSecond, PrOutAction::kClear, 0x11) == kConflict);
  CHECK(rig.out(kSecond, PrOutAction::kClear, 0x22) == kGood);
  CHECK(rig.keys(kSecond).empty());
}

TEST_CASE("REGISTER wants the existing key, its sister ignores it") {
  Rig rig;
  REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  CHECK(rig.out(kFirst, PrOutAction::kRegister, 0, 0x12) == kConflict);
  CHECK(rig.out(kFirst, PrOutAction::kRegisterAndIgnoreExistingKey, 0, 0x12) == kGood);
  CHECK(rig.keys() == std::vector<uint64_t>{0x12});
  CHECK(rig.out(kFirst, PrOutAction::kRegister, 0x12, 0) == kGood);
  CHECK(rig.keys().empty());
}

TEST_CASE("one REGISTER on a multipath map registers every path") {
  Rig rig;
  CHECK(rig.out(kMap, PrOutAction::kRegister, 0, 0x11) == kGood);
  CHECK(rig.kernel.target.registrations() == 2);
  CHECK(rig.out(kMap, PrOutAction::kReserve, 0x11) == kGood);
  CHECK(rig.kernel.target.may_write(12));
}

TEST_CASE("the unit attentions of a map's other paths are not the guest's") {
  Rig rig;
  rig.kernel.open(kMap, Rig::device(253, 0), {11, 12, 13, 14});
  REQUIRE(rig.out(kMap, PrOutAction::kRegister, 0, 0x11) == kGood);
  REQUIRE(rig.out(kMap, PrOutAction::kReserve, 0x11) == kGood);
  // By the first path it succeeds; the others get RESERVATIONS RELEASED.
  CHECK(rig.out(kMap, PrOutAction::kRelease, 0x11) == kGood);
  CHECK(rig.kernel.target.may_write(99));
  CHECK(rig.out(kMap, PrOutAction::kClear, 0x11) == kGood);
  CHECK(rig.out(kMap, PrOutAction::kRegister, 0, 0x12) == kGood);
  CHECK(rig.kernel.target.registrations() == 4);
}

TEST_CASE("a LUN that answers nothing but CHECK CONDITION is given up") {
  Rig rig;
  for (int i = 0; i < 100; ++i) rig.kernel.answer_next(0x02);
  CHECK(is_check(rig.send(pr_out(PrOutAction::kReserve, 5, 0x11)), {0x0b, 0, 0}));
  CHECK(rig.kernel.requests().size() < 20);
}

TEST_CASE("releasing another type than was reserved is an invalid release") {
  Rig rig;
  REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  REQUIRE(rig.out(kFirst, PrOutAction::kReserve, 0x11) == kGood);
  CHECK(is_check(rig.send(pr_out(PrOutAction::kRelease, 1, 0x11)), sense::kInvalidRelease));
}

TEST_CASE("what the kernel answers, the guest gets") {
  const auto answer = [](int value, PrOutAction action = PrOutAction::kReserve) {
    Rig rig;
    rig.kernel.answer_next(value);
    const ReservationReply reply = rig.send(pr_out(action, 5, 0x11));
    // Whatever it was: sent once. A RESERVATION CONFLICT is an answer.
    CHECK(std::count_if(rig.kernel.requests().begin(), rig.kernel.requests().end(),
                        [](unsigned long request) { return request != SG_IO; }) == 1);
    return reply;
  };
  for (const int value : {0x18, 0x118, -EBADE, 0x83, 0x4083}) {
    CHECK(answer(value).status == ScsiStatus::kReservationConflict);
    CHECK(answer(value).sense.empty());
  }
  for (const int value : {-ENOMEM, -EAGAIN, -EBUSY})
    CHECK(answer(value).status == ScsiStatus::kBusy);
  CHECK(is_check(answer(-EOPNOTSUPP), {5, 0x20, 0}));
  CHECK(is_check(answer(-ENOTTY), {5, 0x20, 0}));
  CHECK(is_check(answer(-EINVAL), {5, 0x26, 0}));
  CHECK(is_check(answer(-EINVAL, PrOutAction::kRelease), {5, 0x26, 4}));
  CHECK(is_check(answer(0x402), {5, 0x26, 0}));
  CHECK(is_check(answer(0x402, PrOutAction::kRelease), {5, 0x26, 4}));
  CHECK(is_check(answer(-EPERM), {4, 0x44, 0}));
  CHECK(is_check(answer(-ETIMEDOUT), {0x0b, 8, 1}));
  // No path, gone, offline, and anything nobody has thought of: not good, never a conflict.
  for (const int value : {0x10000, 0xe0000, -ENODEV, -ENXIO, -EIO, -ENOLINK, 1, 0x28, -1000}) {
    CHECK(is_check(answer(value), {0x0b, 8, 0}));
  }
}

TEST_CASE("what cannot be done is refused before the LUN hears of it") {
  Rig rig;
  const int kAllTargetPorts = 0x04;
  CHECK(is_check(rig.send(pr_out(PrOutAction::kRegisterAndMove, 0, 1, 2)),
                 sense::kInvalidFieldInCdb));
  CHECK(is_check(rig.send(pr_out(PrOutAction::kRegister, 0, 0, 1, kAllTargetPorts)),
                 sense::kInvalidParameter));
  CHECK(is_check(rig.send({pr_out_cdb(0, 0, 60), pr_list(0, 1, 0x08, 60)}),
                 sense::kInvalidParameter));
  CHECK(is_check(rig.send({pr_out_cdb(1, 5, 23), pr_list(0, 1, 0, 23)}),
                 sense::kParameterListLength));
  CHECK(is_check(rig.send({pr_in_cdb(9), {}}), sense::kInvalidFieldInCdb));
  CHECK(rig.kernel.requests().empty());
}

TEST_CASE("descriptors of anything but a whole LUN are refused") {
  Rig rig;
  const auto refusal = [&rig](const ReservationKernel::Descriptor& descriptor, bool out = true) {
    rig.kernel.open(7, descriptor, {7});
    return rig.send(out ? pr_out(PrOutAction::kRegister, 0, 0, 1) : pr_in(PrInAction::kReadKeys), 7)
        .refusal;
  };
  auto file = Rig::device(8, 0);
  file.block_device = false;
  CHECK_THAT(refusal(file), Catch::Contains("not that of a block device"));
  CHECK_THAT(refusal(file, false), Catch::Contains("not that of a block device"));

  rig.sysfs.write("sys/dev/block/8:1/partition", "1\n");
  rig.sysfs.write("sys/dev/block/8:1/device/wwid", "naa.60014050000000000000000000000001\n");
  CHECK_THAT(refusal(Rig::device(8, 1)), Catch::Contains("8:1 is a partition"));
  CHECK_THAT(refusal(Rig::device(8, 1), false), Catch::Contains("8:1 is a partition"));

  rig.sysfs.write("sys/dev/block/7:0/size", "8\n");
  CHECK_THAT(refusal(Rig::device(7, 0)), Catch::Contains("7:0 has no LUN identity"));
  rig.sysfs.write("sys/dev/block/253:1/dm/uuid", "LVM-abc\n");
  CHECK_THAT(refusal(Rig::device(253, 1)), Catch::Contains("253:1 has no LUN identity"));
  CHECK_THAT(rig.send(pr_in(PrInAction::kReadKeys), 99).refusal, Catch::Contains("examined"));
  CHECK(rig.kernel.requests().empty());
}

TEST_CASE("a descriptor open for reading reads reservations, and changes none") {
  Rig rig;
  auto descriptor = Rig::device(8, 0);
  descriptor.writable = false;
  rig.kernel.open(7, descriptor, {7});
  CHECK_THAT(rig.send(pr_out(PrOutAction::kRegister, 0, 0, 1), 7).refusal,
             Catch::Contains("not open for writing"));
  CHECK(rig.keys(7).empty());
  descriptor.readable = false;  // O_PATH
  rig.kernel.open(8, descriptor, {8});
  CHECK_THAT(rig.send(pr_in(PrInAction::kReadKeys), 8).refusal,
             Catch::Contains("not open for reading"));
}

TEST_CASE("REPORT CAPABILITIES promises only what the broker does") {
  Rig rig;
  const ReservationReply reply = rig.send(pr_in(PrInAction::kReportCapabilities));
  REQUIRE(reply.data.size() == 8);
  CHECK(reply.data[2] == std::byte{0x01});  // the registration may persist; no ATP_C, SIP_C, CRH
  CHECK(reply.data[3] == std::byte{0x81});
}

TEST_CASE("PERSISTENT RESERVE IN returns no more than was asked for or fits") {
  Rig rig;
  for (int path = 20; path < 1100; ++path) rig.kernel.target.register_key(path, 0, 0x77, false);
  CHECK(rig.send(pr_in(PrInAction::kReadKeys, 0)).data.empty());
  const ReservationReply eight = rig.send(pr_in(PrInAction::kReadKeys, 8));
  REQUIRE(eight.data.size() == 8);
  CHECK(load_be<uint32_t>(eight.data.data() + 4) == 1080 * 8);
  CHECK(rig.send(pr_in(PrInAction::kReadKeys, 0xffff)).data.size() == kReservationDataLimit);
  // What the LUN was asked is what there was room for.
  CHECK(load_be<uint16_t>(rig.kernel.last_cdb().data() + 7) == kReservationDataLimit);
}

TEST_CASE("PERSISTENT RESERVE IN passes the LUN's sense on as it is") {
  Rig rig;
  REQUIRE(rig.out(kFirst, PrOutAction::kRegister, 0, 0x11) == kGood);
  REQUIRE(rig.out(kSecond, PrOutAction::kRegister, 0, 0x22) == kGood);
  REQUIRE(rig.out(kFirst, PrOutAction::kClear, 0x11) == kGood);
  const ReservationReply reply = rig.send(pr_in(PrInAction::kReadKeys), kSecond);
  CHECK(is_check(reply, {0x06, 0x2a, 0x03}));
  CHECK(reply.data.empty());
}

TEST_CASE("PERSISTENT RESERVE IN to a LUN that does not answer, or a driver without SCSI") {
  Rig rig;
  rig.kernel.sg_host_status = 3;
  CHECK(is_check(rig.send(pr_in(PrInAction::kReadKeys)), {0x0b, 8, 1}));
  rig.kernel.sg_host_status = 1;
  CHECK(is_check(rig.send(pr_in(PrInAction::kReadKeys)), {0x0b, 8, 0}));
  rig.kernel.next_sg_result = -ENOTTY;
  CHECK(is_check(rig.send(pr_in(PrInAction::kReadKeys)), {5, 0x20, 0}));
}

}  // namespace plumb
