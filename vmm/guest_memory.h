// Guest memory: the guest's RAM, and the only place that turns guest addresses into pointers.
//
// x86-64 layout (docs/architecture.md has the whole map): RAM from 0 to at most 3 GiB, a hole
// for devices up to 4 GiB, the rest of the RAM from 4 GiB on. Backed by one memfd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

using GuestAddress = uint64_t;

class GuestMemory {
 public:
  struct Config {
    uint64_t size_bytes = 0;  // a multiple of 2 MiB
    bool huge_pages = false;  // 2 MiB hugetlbfs pages; an error when the host has too few free
  };
  struct Region {
    GuestAddress start = 0;
    uint64_t size_bytes = 0;
    std::byte* host = nullptr;
    uint64_t file_offset = 0;  // in fd()
  };

  // Where the hole for devices starts, and where RAM continues.
  static constexpr GuestAddress kHoleStart = 3ULL << 30U;
  static constexpr GuestAddress kHoleEnd = 4ULL << 30U;

  static Result<std::unique_ptr<GuestMemory>> create(const Config& config);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  std::span<const Region> regions() const { return regions_; }
  uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }

  // The host address of [address, address + length), or nullptr when any byte of it is outside
  // RAM or it crosses the hole. Overflow of the sum is outside RAM. length 0 is nullptr. Any
  // thread. The guest may change the memory at any time: read a value once, then check it.
  std::byte* at(GuestAddress address, uint64_t length) const;

  // A copy of a T at `address`; false, and nothing is changed, when it is outside RAM.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool read(GuestAddress address, T& value) const {
    const std::byte* from = at(address, sizeof(T));
    if (from == nullptr) return false;
    std::memcpy(&value, from, sizeof(T));
    return true;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool write(GuestAddress address, const T& value) const {
    std::byte* to = at(address, sizeof(T));
    if (to == nullptr) return false;
    std::memcpy(to, &value, sizeof(T));
    return true;
  }

 private:
  GuestMemory() = default;

  std::vector<Region> regions_;
  uint64_t size_bytes_ = 0;
  UniqueFd fd_;
};

}  // namespace plumb
