#include "rdm/reservation_broker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/endian.h"
#include "base/file.h"
#include "base/log.h"
#include "rdm/scsi_transport.h"

namespace plumb {
namespace {

constexpr unsigned kSgTimeoutMs = 30000;  // that of the kernel's disk driver

constexpr ScsiSense kAborted{0x0b, 0x00, 0x00};

constexpr int kUnknownCheck = 0x02;
constexpr int kTargetFailure = 0x402;
// Each path of a multipath map may have a unit attention of its own. They come at once: what took
// longer was none (Linux since 6.4 returns the same for some transport errors).
constexpr int kUnitAttentions = 16;
constexpr std::chrono::seconds kUnitAttentionTime{5};

struct KnownOutcome {
  int value;
  PrOutcome outcome;
};

constexpr KnownOutcome kOutcomes[] = {
    {0, {ScsiStatus::kGood, {}}},
    // The SCSI status itself; since Linux 6.4 named PR_STS_RESERVATION_CONFLICT.
    {0x18, {ScsiStatus::kReservationConflict, {}}},
    // Linux 6.1 to 6.3 leave their SCSI layer's own byte in it (SCSIML_STAT_RESV_CONFLICT).
    {0x118, {ScsiStatus::kReservationConflict, {}}},
    // The block layer's errno for that status.
    {-EBADE, {ScsiStatus::kReservationConflict, {}}},
    // NVMe's Reservation Conflict, plain and with Do Not Retry, as Linux before 6.4 returns it.
    {0x83, {ScsiStatus::kReservationConflict, {}}},
    {0x4083, {ScsiStatus::kReservationConflict, {}}},
    // CHECK CONDITION whose sense Linux keeps, again and again.
    {kUnknownCheck, {ScsiStatus::kCheckCondition, kAborted}},
    // The LUN's ILLEGAL REQUEST, about the CDB or the parameter list: since Linux 6.4, and as 6.1
    // to 6.3 mark it (SCSIML_STAT_TGT_FAILURE). Ours was right, so it is a key or type that the LUN
    // does not take.
    {-EINVAL, {ScsiStatus::kCheckCondition, sense::kInvalidParameter}},
    {kTargetFailure, {ScsiStatus::kCheckCondition, sense::kInvalidParameter}},
    // No reservations there: a driver without them, a device-mapper target other than multipath.
    {-EOPNOTSUPP, {ScsiStatus::kCheckCondition, sense::kInvalidOperation}},
    {-ENOTTY, {ScsiStatus::kCheckCondition, sense::kInvalidOperation}},
    // This process lacks CAP_SYS_ADMIN or CAP_SYS_RAWIO: nothing that the guest did.
    {-EPERM, {ScsiStatus::kCheckCondition, sense::kTargetFailure}},
    {-EACCES, {ScsiStatus::kCheckCondition, sense::kTargetFailure}},
    // The host has no memory or no free request now.
    {-ENOMEM, {ScsiStatus::kBusy, {}}},
    {-EAGAIN, {ScsiStatus::kBusy, {}}},
    {-EBUSY, {ScsiStatus::kBusy, {}}},
    {-ETIMEDOUT, {ScsiStatus::kCheckCondition, sense::kCommunicationTimeout}},
};
// Everything else (no path, offline, gone, transport errors, the kernel's host bytes): whether the
// LUN has seen the command is not known.
constexpr PrOutcome kUnknownOutcome{ScsiStatus::kCheckCondition, sense::kCommunicationFailure};

ReservationReply check_condition(ScsiSense code) {
  const auto sense = fixed_sense(code);
  return {.status = ScsiStatus::kCheckCondition, .sense = {sense.begin(), sense.end()}};
}

ReservationReply reply_of(const PrOutcome& outcome) {
  if (outcome.status == ScsiStatus::kCheckCondition) return check_condition(outcome.sense);
  return {.status = outcome.status};
}

// SPC-4's types of reservation in linux/pr.h's numbers. Both driver families turn them back.
uint32_t linux_type(uint8_t type) {
  switch (type) {
    case 1:
      return PR_WRITE_EXCLUSIVE;
    case 3:
      return PR_EXCLUSIVE_ACCESS;
    case 5:
      return PR_WRITE_EXCLUSIVE_REG_ONLY;
    case 6:
      return PR_EXCLUSIVE_ACCESS_REG_ONLY;
    case 7:
      return PR_WRITE_EXCLUSIVE_ALL_REGS;
    default:
      ENSURE(type == 8);
      return PR_EXCLUSIVE_ACCESS_ALL_REGS;
  }
}

// Only what parse_pr_out() and unsupported() let pass comes here.
int issue(ReservationKernel& kernel, int fd, const PrOut& out) {
  switch (out.action) {
    case PrOutAction::kRegister:
    case PrOutAction::kRegisterAndIgnoreExistingKey: {
      const bool ignore = out.action == PrOutAction::kRegisterAndIgnoreExistingKey;
      pr_registration registration{.old_key = out.key,
                                   .new_key = out.service_action_key,
                                   .flags = ignore ? PR_FL_IGNORE_KEY : 0U};
      return kernel.control(fd, IOC_PR_REGISTER, &registration);
    }
    case PrOutAction::kReserve:
    case PrOutAction::kRelease: {
      pr_reservation reservation{.key = out.key, .type = linux_type(out.type)};
      const bool reserve = out.action == PrOutAction::kReserve;
      return kernel.control(fd, reserve ? IOC_PR_RESERVE : IOC_PR_RELEASE, &reservation);
    }
    case PrOutAction::kPreempt:
    case PrOutAction::kPreemptAndAbort: {
      // Linux' text calls new_key the preemptor's; its drivers send old_key as the RESERVATION KEY
      // and new_key as the SERVICE ACTION RESERVATION KEY, the victim's.
      pr_preempt preempt{
          .old_key = out.key, .new_key = out.service_action_key, .type = linux_type(out.type)};
      const bool abort = out.action == PrOutAction::kPreemptAndAbort;
      return kernel.control(fd, abort ? IOC_PR_PREEMPT_ABORT : IOC_PR_PREEMPT, &preempt);
    }
    case PrOutAction::kClear: {
      pr_clear clear{.key = out.key};
      return kernel.control(fd, IOC_PR_CLEAR, &clear);
    }
    case PrOutAction::kRegisterAndMove:
      break;
  }
  ENSURE(false);
  return -EINVAL;
}

// A CHECK CONDITION without its sense is a unit attention of a path, which is gone with it: RELEASE
// and CLEAR by one path leave one at all others. That is the host's affair; the guest has one path.
// A command that met it was not carried out there, so it goes again.
int issue_past_attentions(ReservationKernel& kernel, int fd, const PrOut& out) {
  const auto deadline = std::chrono::steady_clock::now() + kUnitAttentionTime;
  int value = issue(kernel, fd, out);
  for (int turn = 1; turn < kUnitAttentions && value == kUnknownCheck; ++turn) {
    if (std::chrono::steady_clock::now() > deadline) break;
    value = issue(kernel, fd, out);
  }
  return value;
}

// What IOC_PR_* cannot say: another initiator's registration, other target ports.
const ScsiSense* unsupported(const PrOut& out) {
  if (out.action == PrOutAction::kRegisterAndMove) return &sense::kInvalidFieldInCdb;
  if (out.spec_i_pt || out.all_tg_pt) return &sense::kInvalidParameter;
  return nullptr;
}

// One command without data to the LUN, up to `data_bytes` from it.
ReservationReply send_scsi(ReservationKernel& kernel, int fd, std::span<const std::byte> cdb,
                           size_t data_bytes) {
  ReservationReply reply;
  reply.data.resize(data_bytes);
  LunCommand command{.cdb = {reinterpret_cast<const uint8_t*>(cdb.data()), cdb.size()},
                     .direction = CdbData::kIn,
                     .data = reply.data,
                     .timeout_ms = kSgTimeoutMs};
  const int error =
      send_by_sg_io(command, [&](sg_io_hdr& header) { return kernel.control(fd, SG_IO, &header); });
  if (error != 0) return reply_of(outcome_of(-error));
  reply.status = command.status;
  const auto* sense = reinterpret_cast<const std::byte*>(command.sense.data());
  reply.sense.assign(sense, sense + command.sense_bytes);
  reply.data.resize(reply.status == ScsiStatus::kGood ? command.moved_bytes : 0);
  return reply;
}

ScsiSense sense_of(const ReservationReply& reply) {
  return code_of({reinterpret_cast<const uint8_t*>(reply.sense.data()), reply.sense.size()});
}

// A pending unit attention must reach the guest ("your registration was preempted"), and IOC_PR_*
// would swallow its sense. So TEST UNIT READY goes first; any other answer of it says nothing.
bool take_unit_attention(ReservationKernel& kernel, int fd, ReservationReply& reply) {
  constexpr std::byte kTestUnitReady[6] = {};
  reply = send_scsi(kernel, fd, kTestUnitReady, 0);
  return reply.status == ScsiStatus::kCheckCondition && sense_of(reply).key == kUnitAttention;
}

// REPORT CAPABILITIES (SPC-4 6.15.4): the LUN's, less what the broker does not support.
void adjust_capabilities(std::vector<std::byte>& data) {
  constexpr auto kReplaceLost = std::byte{0x80};
  constexpr auto kCompatibleHandling = std::byte{0x10};  // RESERVE and RELEASE beside these
  constexpr auto kSpecifyPorts = std::byte{0x08};
  constexpr auto kAllTargetPorts = std::byte{0x04};
  if (data.size() < 3) return;
  data[2] &= ~(kReplaceLost | kCompatibleHandling | kSpecifyPorts | kAllTargetPorts);
}

std::string description(const ReservationRequest& request) {
  const auto parsed = parse_pr_out(request.cdb, request.parameters);
  const auto* out = std::get_if<PrOut>(&parsed);
  if (out == nullptr) return "with fields that are wrong";
  const std::string type = out->type == 0 ? "" : fmt::format(" type {}", out->type);
  return fmt::format("{}{} key {:#x} service action key {:#x}", pr_action_name(out->action), type,
                     out->key, out->service_action_key);
}

std::string description(const ReservationReply& reply) {
  if (reply.refused()) return "refused: " + reply.refusal;
  switch (reply.status) {
    case ScsiStatus::kGood:
      return "good";
    case ScsiStatus::kReservationConflict:
      return "reservation conflict";
    case ScsiStatus::kCheckCondition: {
      const ScsiSense code = sense_of(reply);
      return fmt::format("check condition {:02x}/{:02x}/{:02x}", code.key, code.asc, code.ascq);
    }
    case ScsiStatus::kBusy:
      break;
  }
  return fmt::format("status {:#04x}", static_cast<unsigned>(reply.status));
}

}  // namespace

Result<ReservationKernel::Descriptor> LinuxReservationKernel::describe(int fd) {
  struct stat status {};
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fstat(fd, &status) != 0) {
    return os_error(errno, "the descriptor cannot be examined");
  }
  const bool usable = (flags & O_PATH) == 0;
  const int access = flags & O_ACCMODE;
  return Descriptor{.block_device = S_ISBLK(status.st_mode),
                    .readable = usable && (access == O_RDONLY || access == O_RDWR),
                    .writable = usable && (access == O_WRONLY || access == O_RDWR),
                    .number = status.st_rdev};
}

int LinuxReservationKernel::control(int fd, unsigned long request, void* argument) {
  const int result = ::ioctl(fd, request, argument);
  return result < 0 ? -errno : result;
}

PrOutcome outcome_of(int value) {
  const auto* found = std::find_if(std::begin(kOutcomes), std::end(kOutcomes),
                                   [value](const auto& known) { return known.value == value; });
  return found == std::end(kOutcomes) ? kUnknownOutcome : found->outcome;
}

PrOutcome outcome_of(int value, PrOutAction action) {
  // Of all that a right RELEASE can be told, only this is a CHECK CONDITION: the holder released
  // another type than it reserved (SPC-4 5.13.11.2.2).
  if (action == PrOutAction::kRelease && (value == kTargetFailure || value == -EINVAL)) {
    return {ScsiStatus::kCheckCondition, sense::kInvalidRelease};
  }
  return outcome_of(value);
}

ReservationReply ReservationBroker::serve(const ReservationRequest& request, int lun_fd,
                                          std::string_view peer) {
  const bool out = request.cdb[0] == std::byte{kPersistentReserveOut};
  Result<LunId> lun = check_lun(lun_fd, out);
  if (!out)
    return lun ? reserve_in(request, lun_fd) : ReservationReply{.refusal = lun.error().message};
  ReservationReply reply =
      lun ? reserve_out(request, lun_fd) : ReservationReply{.refusal = lun.error().message};
  log::info("{}: {} on {}: {}", peer, description(request), lun ? lun->text() : "no LUN",
            description(reply));
  return reply;
}

Result<LunId> ReservationBroker::check_lun(int lun_fd, bool for_writing) {
  const ReservationKernel::Descriptor descriptor = TRY(kernel_.describe(lun_fd));
  if (!descriptor.block_device) return failed("the descriptor is not that of a block device");
  const std::string number =
      fmt::format("{}:{}", major(descriptor.number), minor(descriptor.number));
  const std::string block = resolver_.roots().sys + "/dev/block/" + number;
  if (!read_attribute(block + "/partition").empty()) {
    return failed("block device {} is a partition; reservations are of whole LUNs", number);
  }
  if (for_writing ? !descriptor.writable : !descriptor.readable && !descriptor.writable) {
    return failed("block device {} is not open for {}", number,
                  for_writing ? "writing, and PERSISTENT RESERVE OUT changes it" : "reading");
  }
  return resolver_.identity_of(descriptor.number);
}

ReservationReply ReservationBroker::reserve_out(const ReservationRequest& request, int lun_fd) {
  const auto parsed = parse_pr_out(request.cdb, request.parameters);
  if (const auto* wrong = std::get_if<ScsiSense>(&parsed)) return check_condition(*wrong);
  const PrOut& out = std::get<PrOut>(parsed);
  if (const ScsiSense* sense = unsupported(out)) return check_condition(*sense);
  ReservationReply attention;
  if (take_unit_attention(kernel_, lun_fd, attention)) return attention;
  return reply_of(outcome_of(issue_past_attentions(kernel_, lun_fd, out), out.action));
}

ReservationReply ReservationBroker::reserve_in(const ReservationRequest& request, int lun_fd) {
  const auto parsed = parse_pr_in(request.cdb);
  if (const auto* wrong = std::get_if<ScsiSense>(&parsed)) return check_condition(*wrong);
  const PrIn& in = std::get<PrIn>(parsed);
  const auto room =
      static_cast<uint16_t>(std::min<size_t>(in.allocation_bytes, kReservationDataLimit));
  std::array<std::byte, kPrCdbBytes> cdb = request.cdb;
  store_be(cdb.data() + 7, room);
  ReservationReply reply = send_scsi(kernel_, lun_fd, cdb, room);
  if (in.action == PrInAction::kReportCapabilities) adjust_capabilities(reply.data);
  return reply;
}

}  // namespace plumb
