// A LUN with persistent reservations (SPC-4 5.13) and a kernel over it, for tests of the broker.
// tests/lab/cases/reservations.sh has the real ones.
#pragma once

#include <linux/pr.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/endian.h"
#include "rdm/reservation_broker.h"

namespace plumb {

// An initiator port and a target port: what registers.
using Nexus = int;

// Values returned are SCSI statuses, as Linux 6.1 passes them on.
class FakeReservationTarget {
 public:
  static constexpr int kGood = 0;
  static constexpr int kCheck = 0x02;
  static constexpr int kConflict = 0x18;
  static constexpr int kIllegalRequest = 0x402;  // CHECK CONDITION, as Linux 6.1 marks that sense

  int register_key(Nexus nexus, uint64_t key, uint64_t new_key, bool ignore) {
    const auto own = keys_.find(nexus);
    const uint64_t now = own == keys_.end() ? 0 : own->second;
    if (!ignore && key != now) return kConflict;
    ++generation_;
    if (new_key != 0) {
      keys_[nexus] = new_key;
    } else if (own != keys_.end()) {
      unregister(nexus, nexus, 0x04);
    }
    return kGood;
  }

  int reserve(Nexus nexus, uint64_t key, uint32_t type) {
    if (!registered(nexus, key)) return kConflict;
    if (type_ == 0) {
      type_ = type;
      holder_ = nexus;
      return kGood;
    }
    return holds(nexus) && type == type_ ? kGood : kConflict;
  }

  int release(Nexus nexus, uint64_t key, uint32_t type) {
    if (!registered(nexus, key)) return kConflict;
    if (type_ == 0 || !holds(nexus)) return kGood;
    if (type != type_) return kIllegalRequest;
    drop_reservation(nexus, 0x04);
    return kGood;
  }

  int preempt(Nexus nexus, uint64_t key, uint64_t victim, uint32_t type) {
    if (!registered(nexus, key)) return kConflict;
    const bool takes_over = type_ != 0 && !all_registrants() && keys_[*holder_] == victim;
    const std::vector<Nexus> gone = with_key(victim);
    if (gone.empty()) return kConflict;
    ++generation_;
    for (const Nexus other : gone) {
      if (other != nexus) unregister(nexus, other, 0x05);
    }
    if (takes_over) {
      type_ = type;
      holder_ = nexus;
    }
    return kGood;
  }

  int clear(Nexus nexus, uint64_t key) {
    if (!registered(nexus, key)) return kConflict;
    ++generation_;
    for (const auto& [other, its_key] : keys_) {
      if (other != nexus) attention_[other] = 0x03;
    }
    keys_.clear();
    type_ = 0;
    holder_.reset();
    return kGood;
  }

  // Whether a WRITE from there would pass.
  bool may_write(Nexus nexus) const {
    if (type_ == 0 || holds(nexus)) return true;
    const bool registrants = type_ >= PR_WRITE_EXCLUSIVE_REG_ONLY;
    return registrants && keys_.count(nexus) != 0;
  }

  // The ASCQ of a pending unit attention 2A/xx; it is gone then.
  std::optional<int> take_attention(Nexus nexus) {
    const auto found = attention_.find(nexus);
    if (found == attention_.end()) return std::nullopt;
    const int ascq = found->second;
    attention_.erase(found);
    return ascq;
  }

  // PERSISTENT RESERVE IN (SPC-4 6.15), whole.
  std::vector<std::byte> read(PrInAction action) const {
    std::vector<std::byte> data(8);
    store_be(data.data(), generation_);
    if (action == PrInAction::kReadKeys) {
      for (const auto& [nexus, key] : keys_) append(data, key);
    } else if (action == PrInAction::kReadReservation && type_ != 0) {
      append(data, all_registrants() ? 0 : keys_.at(*holder_));
      append(data, uint64_t{kScsiTypes[type_]} << 16U);
    } else if (action == PrInAction::kReportCapabilities) {
      store_be<uint16_t>(data.data(), 8);
      data[2] = std::byte{0x9d};  // all that there is
      data[3] = std::byte{0x81};
      store_be<uint16_t>(data.data() + 4, 0xea01);
      return data;
    }
    store_be(data.data() + 4, static_cast<uint32_t>(data.size() - 8));
    return data;
  }

  size_t registrations() const { return keys_.size(); }

 private:
  static constexpr uint8_t kScsiTypes[] = {0, 1, 3, 5, 6, 7, 8};

  static void append(std::vector<std::byte>& data, uint64_t value) {
    data.resize(data.size() + 8);
    store_be(data.data() + data.size() - 8, value);
  }

  bool registered(Nexus nexus, uint64_t key) const {
    const auto own = keys_.find(nexus);
    return own != keys_.end() && own->second == key;
  }
  bool all_registrants() const { return type_ >= PR_WRITE_EXCLUSIVE_ALL_REGS; }
  bool holds(Nexus nexus) const {
    if (type_ == 0) return false;
    return all_registrants() ? keys_.count(nexus) != 0 : holder_ == nexus;
  }

  std::vector<Nexus> with_key(uint64_t key) const {
    std::vector<Nexus> found;
    for (const auto& [nexus, its_key] : keys_) {
      if (its_key == key) found.push_back(nexus);
    }
    return found;
  }

  void unregister(Nexus by, Nexus gone, int ascq) {
    const bool held = holds(gone);
    keys_.erase(gone);
    if (by != gone) attention_[gone] = ascq;
    if (held && (!all_registrants() || keys_.empty())) drop_reservation(by, 0x04);
  }

  void drop_reservation(Nexus by, int ascq) {
    for (const auto& [other, key] : keys_) {
      if (other != by && type_ >= PR_WRITE_EXCLUSIVE_REG_ONLY) attention_[other] = ascq;
    }
    type_ = 0;
    holder_.reset();
  }

  std::map<Nexus, uint64_t> keys_;
  std::map<Nexus, int> attention_;
  std::optional<Nexus> holder_;
  uint32_t type_ = 0;  // linux/pr.h's number; 0 for no reservation
  uint32_t generation_ = 0;
};

class FakeReservationKernel final : public ReservationKernel {
 public:
  // Descriptors are invented: `fd` is of the device, which reaches the target by those nexuses.
  void open(int fd, Descriptor descriptor, std::vector<Nexus> paths) {
    files_[fd] = {descriptor, std::move(paths)};
  }

  Result<Descriptor> describe(int fd) override {
    if (files_.count(fd) == 0) return os_error(EBADF, "the descriptor cannot be examined");
    return files_[fd].descriptor;
  }

  int control(int fd, unsigned long request, void* argument) override {
    requests_.push_back(request);
    if (request == SG_IO) return send(files_.at(fd).paths, *static_cast<sg_io_hdr*>(argument));
    if (!answers_.empty()) {
      const int answer = answers_.front();
      answers_.pop_front();
      return answer;
    }
    return reserve(files_.at(fd).paths, request, argument);
  }

  // What the next IOC_PR_* returns instead of asking the target.
  void answer_next(int value) { answers_.push_back(value); }
  // What the next SG_IO returns, or which host byte it gets, if it is not TEST UNIT READY.
  std::optional<int> next_sg_result;
  int sg_host_status = 0;

  FakeReservationTarget target;
  std::vector<unsigned long>& requests() { return requests_; }
  const std::vector<std::byte>& last_cdb() const { return last_cdb_; }

 private:
  struct File {
    Descriptor descriptor;
    std::vector<Nexus> paths;
  };

  // As dm-multipath: a registration and a release go to every path, the rest to the first. A path
  // with a unit attention ends it, and a registration is then taken off the paths that have it.
  int reserve(const std::vector<Nexus>& paths, unsigned long request, const void* argument) {
    for (const Nexus path : paths) {
      const int result = target.take_attention(path) ? FakeReservationTarget::kCheck
                                                     : reserve_on(path, request, argument);
      if (result != 0 && request == IOC_PR_REGISTER && paths.size() > 1) {
        const auto wanted = *static_cast<const pr_registration*>(argument);
        for (const Nexus other : paths) target.register_key(other, wanted.new_key, 0, false);
      }
      if (result != 0) return result;
      if (request != IOC_PR_REGISTER && request != IOC_PR_RELEASE) break;
    }
    return 0;
  }

  int reserve_on(Nexus nexus, unsigned long request, const void* argument) {
    const auto as = [argument](auto value) {
      std::memcpy(&value, argument, sizeof(value));
      return value;
    };
    switch (request) {
      case IOC_PR_REGISTER: {
        const auto that = as(pr_registration{});
        return target.register_key(nexus, that.old_key, that.new_key,
                                   (that.flags & PR_FL_IGNORE_KEY) != 0);
      }
      case IOC_PR_RESERVE:
        return target.reserve(nexus, as(pr_reservation{}).key, as(pr_reservation{}).type);
      case IOC_PR_RELEASE:
        return target.release(nexus, as(pr_reservation{}).key, as(pr_reservation{}).type);
      case IOC_PR_PREEMPT:
      case IOC_PR_PREEMPT_ABORT: {
        const auto that = as(pr_preempt{});
        return target.preempt(nexus, that.old_key, that.new_key, that.type);
      }
      case IOC_PR_CLEAR:
        return target.clear(nexus, as(pr_clear{}).key);
      default:
        return -ENOTTY;
    }
  }

  int send(const std::vector<Nexus>& paths, sg_io_hdr& header) {
    last_cdb_.resize(header.cmd_len);
    std::memcpy(last_cdb_.data(), header.cmdp, header.cmd_len);
    if (header.timeout == 0 || header.interface_id != 'S') return -EINVAL;
    if (last_cdb_[0] != std::byte{}) {  // not TEST UNIT READY
      if (next_sg_result) return *std::exchange(next_sg_result, std::nullopt);
      header.host_status = static_cast<unsigned short>(std::exchange(sg_host_status, 0));
    }
    header.resid = static_cast<int>(header.dxfer_len);
    if (const auto ascq = target.take_attention(paths.front())) {
      const auto sense = fixed_sense({kUnitAttention, 0x2a, static_cast<uint8_t>(*ascq)});
      std::memcpy(header.sbp, sense.data(), sense.size());
      header.sb_len_wr = sense.size();
      header.status = static_cast<unsigned char>(ScsiStatus::kCheckCondition);
    } else if (last_cdb_[0] == std::byte{kPersistentReserveIn}) {
      const auto data = target.read(static_cast<PrInAction>(last_cdb_[1]));
      const size_t count = std::min<size_t>(data.size(), header.dxfer_len);
      std::copy_n(data.begin(), count, static_cast<std::byte*>(header.dxferp));
      header.resid -= static_cast<int>(count);
    }
    return 0;
  }

  std::map<int, File> files_;
  std::deque<int> answers_;
  std::vector<unsigned long> requests_;
  std::vector<std::byte> last_cdb_;
};

}  // namespace plumb
