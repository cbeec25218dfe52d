// A LUN behind a transport, for tests: it writes down what comes, and answers as it is told.
// tests/lab/cases/scsi-physical.sh has a real one.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "rdm/scsi_transport.h"

namespace plumb {

class FakeLun final : public ScsiTransport {
 public:
  struct Sent {
    std::vector<uint8_t> cdb;
    CdbData direction;
    std::vector<uint8_t> data;  // as it came; of kIn, what is in the buffer before the answer
  };
  // Answers a command; the returned value is that of send().
  using Answer = std::function<int(LunCommand&)>;

  int send(LunCommand& command) override {
    std::unique_lock lock(mutex_);
    const auto* data = reinterpret_cast<const uint8_t*>(command.data.data());
    sent_.push_back({{command.cdb.begin(), command.cdb.end()},
                     command.direction,
                     {data, data + command.data.size()}});
    changed_.notify_all();
    changed_.wait(lock, [this] { return !keep_; });
    command.moved_bytes = command.data.size();
    return answer_ ? answer_(command) : 0;
  }

  void answers(Answer answer) {
    const std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  void keep(bool keep) {
    const std::lock_guard lock(mutex_);
    keep_ = keep;
    changed_.notify_all();
  }
  void wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sent_.size() >= count; });
  }
  std::vector<Sent> sent() {
    const std::lock_guard lock(mutex_);
    return sent_;
  }
  std::vector<uint8_t> codes() {
    std::vector<uint8_t> codes;
    for (const Sent& each : sent()) codes.push_back(each.cdb[0]);
    return codes;
  }

  // What Answers are made of.
  static int fill(LunCommand& command, const std::vector<uint8_t>& bytes) {
    command.moved_bytes = std::min(bytes.size(), command.data.size());
    std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()), command.moved_bytes,
                command.data.begin());
    return 0;
  }
  static int check(LunCommand& command, const ScsiSense& code) {
    command.status = ScsiStatus::kCheckCondition;
    command.moved_bytes = 0;
    const auto sense = fixed_sense(code);
    command.sense_bytes = sense.size();
    std::copy_n(reinterpret_cast<const uint8_t*>(sense.data()), sense.size(),
                command.sense.begin());
    return 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Sent> sent_;
  Answer answer_;
  bool keep_ = false;
};

}  // namespace plumb
