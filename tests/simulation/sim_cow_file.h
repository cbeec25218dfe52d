// A simulated device as blocking code sees it, between the steps of the machine: reads find what
// the device would answer, block by block, and the test may let things happen between two blocks;
// writes are on the medium at once.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "blockdev/cow_file.h"
#include "blockdev/sim_device.h"

namespace plumb::simulation {

class SimCowFile final : public CowFile {
 public:
  struct Config {
    std::function<void()> between;      // blocks that are read; may be empty
    std::function<bool()> writer;       // has_writer(); empty: nobody
    uint32_t most_writes = UINT32_MAX;  // calls of write(); then they fail, as if all ended there
  };
  explicit SimCowFile(SimDevice& device) : SimCowFile(device, Config()) {}
  SimCowFile(SimDevice& device, Config config) : device_(device), config_(std::move(config)) {}

  const std::string& label() const override { return label_; }
  Result<> read(uint64_t offset, std::span<std::byte> to) override {
    const uint32_t size = device_.block_size();
    while (!to.empty()) {
      const uint64_t block = offset / size;
      if (block >= device_.blocks()) return failed("the device ends before {}", offset);
      const size_t skip = offset % size;
      const size_t bytes = std::min<size_t>(size - skip, to.size());
      std::memcpy(to.data(), device_.current(static_cast<uint32_t>(block)) + skip, bytes);
      to = to.subspan(bytes);
      offset += bytes;
      if (config_.between) config_.between();
    }
    return {};
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) override {
    if (config_.most_writes == 0) return os_error(EIO, "the device cannot be written");
    --config_.most_writes;
    const uint32_t size = device_.block_size();
    for (size_t done = 0; done < from.size(); done += size) {
      const auto block = static_cast<uint32_t>((offset + done) / size);
      std::memcpy(device_.write_medium(block), from.data() + done, size);
    }
    return {};
  }
  Result<> sync() override { return {}; }
  Result<bool> has_writer() override { return config_.writer && config_.writer(); }

 private:
  SimDevice& device_;
  Config config_;
  const std::string label_ = "overlay";
};

}  // namespace plumb::simulation
