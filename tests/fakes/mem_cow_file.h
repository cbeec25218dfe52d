// A CowFile in memory that others share, such as a MemDevice's; it can fail, and take only so many
// writes more.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "blockdev/cow_file.h"

namespace plumb {

class MemCowFile final : public CowFile {
 public:
  explicit MemCowFile(std::vector<std::byte>& bytes, std::string label = "memory")
      : bytes_(bytes), label_(std::move(label)) {}

  uint64_t writes = 0;
  uint64_t most_writes = UINT64_MAX;  // then they fail, as after a crash
  bool writer = false;                // what has_writer() says
  std::function<void()> after_read;   // what others do then

  const std::string& label() const override { return label_; }
  Result<> read(uint64_t offset, std::span<std::byte> to) override {
    if (offset > bytes_.size() || to.size() > bytes_.size() - offset) {
      return failed("{} ends before {}", label_, offset);
    }
    std::memcpy(to.data(), bytes_.data() + offset, to.size());
    if (after_read) after_read();
    return {};
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) override {
    ENSURE(offset % 4096 == 0 && from.size() % 4096 == 0);
    if (writes == most_writes) return os_error(EIO, "{} cannot be written", label_);
    ++writes;
    ENSURE(offset <= bytes_.size() && from.size() <= bytes_.size() - offset);
    std::memcpy(bytes_.data() + offset, from.data(), from.size());
    return {};
  }
  Result<> sync() override { return {}; }
  Result<bool> has_writer() override { return writer; }

 private:
  std::vector<std::byte>& bytes_;
  const std::string label_;
};

}  // namespace plumb
