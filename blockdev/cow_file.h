// CowFile: an overlay, or the disk under it, as blocking code sees it: making and checking
// overlays, merging them, reading snapshots. (A VM's own I/O goes by CowDevice.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/aligned_memory.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// One thread at a time.
class CowFile {
 public:
  virtual ~CowFile() = default;

  // Names it in errors.
  virtual const std::string& label() const = 0;
  // All of it; an error when the file ends before.
  virtual Result<> read(uint64_t offset, std::span<std::byte> to) = 0;
  // Durable after sync(). Offset and length are multiples of 4096, but for what ends with a disk.
  virtual Result<> write(uint64_t offset, std::span<const std::byte> from) = 0;
  virtual Result<> sync() = 0;
  // Whether somebody else has it open for writing, as lock_file() tells.
  virtual Result<bool> has_writer() = 0;
};

// Over a descriptor, which it keeps and sets to direct I/O: what another process has written is
// found without a page cache between.
class CowFdFile final : public CowFile {
 public:
  // Errors: no direct I/O.
  static Result<std::unique_ptr<CowFdFile>> open(UniqueFd fd, std::string label);

  int fd() const { return fd_.get(); }
  // Gives it up.
  UniqueFd take() && { return std::move(fd_); }

  const std::string& label() const override { return label_; }
  Result<> read(uint64_t offset, std::span<std::byte> to) override;
  Result<> write(uint64_t offset, std::span<const std::byte> from) override;
  Result<> sync() override;
  Result<bool> has_writer() override;

 private:
  CowFdFile(UniqueFd fd, std::string label, AlignedMemory piece)
      : fd_(std::move(fd)), label_(std::move(label)), piece_(std::move(piece)) {}

  UniqueFd fd_;
  const std::string label_;
  const AlignedMemory piece_;  // what the kernel reads into and writes from
};

}  // namespace plumb
