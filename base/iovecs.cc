#include "base/iovecs.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace plumb {

uint64_t total_bytes(std::span<const iovec> parts) {
  uint64_t sum = 0;
  for (const iovec& part : parts) sum += part.iov_len;
  return sum;
}

bool take_front(std::span<iovec>& parts, std::span<std::byte> to) {
  while (!to.empty()) {
    if (parts.empty()) return false;
    iovec& part = parts.front();
    const size_t count = std::min(to.size(), part.iov_len);
    if (count > 0) std::memcpy(to.data(), part.iov_base, count);
    to = to.subspan(count);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + count;
    part.iov_len -= count;
    if (part.iov_len == 0) parts = parts.subspan(1);
  }
  asm volatile("" : : : "memory");
  return true;
}

size_t copy_to(std::span<const iovec> parts, std::span<const std::byte> from) {
  size_t copied = 0;
  for (const iovec& part : parts) {
    const size_t count = std::min(part.iov_len, from.size() - copied);
    if (count > 0) std::memcpy(part.iov_base, from.data() + copied, count);
    copied += count;
  }
  return copied;
}

size_t copy_from(std::span<const iovec> parts, std::span<std::byte> to) {
  size_t copied = 0;
  for (const iovec& part : parts) {
    const size_t count = std::min(part.iov_len, to.size() - copied);
    if (count > 0) std::memcpy(to.data() + copied, part.iov_base, count);
    copied += count;
  }
  asm volatile("" : : : "memory");
  return copied;
}

void cut_to(std::span<iovec>& parts, uint64_t bytes) {
  size_t count = 0;
  for (; bytes > 0; ++count) {
    ENSURE(count < parts.size());
    parts[count].iov_len = std::min<uint64_t>(parts[count].iov_len, bytes);
    bytes -= parts[count].iov_len;
  }
  parts = parts.first(count);
}

}  // namespace plumb
