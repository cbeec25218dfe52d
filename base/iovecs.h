// Bytes scattered over several buffers (iovec).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace plumb {

uint64_t total_bytes(std::span<const iovec> parts);

// Copies the front of `parts` to `to`, and moves them on. False when there is not enough. Memory
// shared with a guest is read once.
bool take_front(std::span<iovec>& parts, std::span<std::byte> to);

// Copies as much as fits, from the start of `parts`; returns how much.
size_t copy_to(std::span<const iovec> parts, std::span<const std::byte> from);
size_t copy_from(std::span<const iovec> parts, std::span<std::byte> to);

// Cuts `parts`, which have at least so many, to `bytes`.
void cut_to(std::span<iovec>& parts, uint64_t bytes);

}  // namespace plumb
