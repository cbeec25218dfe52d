// Sends SCSI commands to a logical unit from a test's thread, and waits for them.
#pragma once

#include <initializer_list>
#include <semaphore>
#include <string>
#include <vector>

#include "blockdev/scsi_lun.h"

namespace plumb {

struct TestCommand : ScsiCommand {
  explicit TestCommand(std::initializer_list<unsigned> bytes) {
    size_t at = 0;
    for (const unsigned byte : bytes) cdb.at(at++) = static_cast<uint8_t>(byte);
    done = [](ScsiCommand& command) {
      auto& self = static_cast<TestCommand&>(command);
      ENSURE(!self.inside_execute);
      ++self.calls;
      self.ended.release();
    };
  }
  // Both in uneven pieces, as drivers may cut them.
  TestCommand& sends(std::vector<uint8_t> data) {
    out = std::move(data);
    out_parts = cut(out);
    data_out = out_parts;
    return *this;
  }
  TestCommand& takes(size_t bytes) {
    in.assign(bytes, 0xee);
    in_parts = cut(in);
    data_in = in_parts;
    return *this;
  }
  ScsiSense told() const {
    return sense_bytes == 0 ? sense::kNone : ScsiSense{sense[2], sense[12], sense[13]};
  }
  // What came, cut to what was moved.
  std::vector<uint8_t> came() const {
    return {in.begin(), in.begin() + static_cast<ptrdiff_t>(moved_bytes)};
  }

  std::vector<uint8_t> out;
  std::vector<uint8_t> in;
  std::vector<iovec> out_parts;
  std::vector<iovec> in_parts;
  std::binary_semaphore ended{0};
  int calls = 0;
  bool inside_execute = false;

 private:
  static std::vector<iovec> cut(std::vector<uint8_t>& bytes) {
    const size_t first = bytes.size() / 3;
    std::vector<iovec> parts;
    if (first > 0) parts.push_back({bytes.data(), first});
    if (bytes.size() > first) parts.push_back({bytes.data() + first, bytes.size() - first});
    return parts;
  }
};

class ScsiClient {
 public:
  explicit ScsiClient(ScsiLun& lun) : lun_(lun) {}

  void send(TestCommand& command) {
    lun_.thread().run([&] {
      command.inside_execute = true;
      lun_.execute(command);
      command.inside_execute = false;
    });
  }
  void wait(TestCommand& command) {
    lun_.thread().wait_for(command.ended);
    lun_.thread().run([] {});
    ENSURE(command.calls == 1);
  }
  TestCommand& run(TestCommand& command) {
    send(command);
    wait(command);
    return command;
  }

 private:
  ScsiLun& lun_;
};

}  // namespace plumb
