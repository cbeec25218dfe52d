#include "rdm/lun_reservations.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "base/iovecs.h"
#include "base/log.h"
#include "blockdev/scsi_answer.h"

namespace plumb {
namespace {

void set_answer(ScsiCommand& command, const ReservationReply& reply, size_t sent_bytes) {
  command.status = reply.status;
  command.sense_bytes = std::min(reply.sense.size(), command.sense.size());
  std::copy_n(reinterpret_cast<const uint8_t*>(reply.sense.data()), command.sense_bytes,
              command.sense.begin());
  command.moved_bytes = sent_bytes + copy_to(command.data_in, reply.data);
}

}  // namespace

struct LunReservations::Work : ScsiWork, WorkerThreads::Job {
  LunReservations* owner = nullptr;
  ScsiCommand* command = nullptr;
  ScsiCommand::Done finished = nullptr;
  std::array<std::byte, kPrCdbBytes> cdb{};
  std::vector<std::byte> parameters;
};

Result<std::unique_ptr<LunReservations>> LunReservations::start(Config config, IoThread& thread) {
  const WorkerThreads::Config worker{.name = "reservations",
                                     .at_start = std::move(config.at_start)};
  std::unique_ptr<LunReservations> made(new LunReservations(std::move(config), thread));
  made->worker_ = TRY(WorkerThreads::start(worker));
  return made;
}

void LunReservations::execute(ScsiCommand& command, ScsiCommand::Done finished) {
  auto work = std::make_unique<Work>();
  work->owner = this;
  work->command = &command;
  work->finished = finished;
  std::memcpy(work->cdb.data(), command.cdb.data(), work->cdb.size());
  if (command.cdb[0] == kPersistentReserveOut) {
    // A list that is shorter than the CDB says, or cut here, is refused for its length.
    const uint64_t length =
        std::min<uint64_t>(load_be<uint32_t>(&command.cdb[5]), kReservationDataLimit);
    work->parameters.resize(std::min(length, total_bytes(command.data_out)));
    copy_from(command.data_out, work->parameters);
  }
  work->run = [](WorkerThreads::Job& job) {
    Work& self = static_cast<Work&>(job);
    self.owner->carry_out(self);
  };
  Work& job = *work;
  command.work = std::move(work);
  worker_->submit(job);
}

void LunReservations::carry_out(Work& work) {
  ScsiCommand& command = *work.command;
  Result<ReservationReply> reply = client_.execute(lun_.get(), work.cdb, work.parameters);
  if (reply) {
    set_answer(command, *reply, work.parameters.size());
  } else {
    const bool none = reply.error().kind == ErrorKind::kNotFound;
    set_sense(command, none ? sense::kTargetFailure : sense::kCommunicationFailure);
    if (!failing_) log::warning("disk {}: no reservation: {}", disk_, reply.error().message);
  }
  failing_ = !reply;
  thread_.post([&command, finished = work.finished] {
    command.work.reset();
    finished(command);
  });
}

}  // namespace plumb
