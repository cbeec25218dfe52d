// The named limits of blockdev, each with its reason.
#pragma once

#include <cstdint>

namespace plumb {

// Submission entries of a ring: more than one turn of the loop queues; a full ring is flushed.
inline constexpr unsigned kRingEntries = 256;
// Completions that may wait in the ring: several devices, each with deep queues.
inline constexpr unsigned kRingCompletions = 2048;
// Files that a ring keeps registered: the disks of one I/O thread.
inline constexpr unsigned kRingFiles = 64;
// The largest buffer that a ring registers (io_uring_register(2)): larger memory is several.
inline constexpr uint64_t kRingBufferBytes = 1ULL << 30U;
// Linux AIO operations in flight; what comes on top waits in the engine, in order.
inline constexpr unsigned kAioEvents = 512;
// File descriptors watched by one I/O thread.
inline constexpr unsigned kWatches = 256;

// Operations of one file device in flight; what comes on top waits in the device, in order.
inline constexpr unsigned kFileDeviceOps = 256;
// Where the kernel would flush for each durable write, they share flushes when so many are in
// flight at once in a window of so many writes, and in the next: fewer are quicker with a flush
// each.
inline constexpr uint32_t kSharedFlushDepth = 8;
inline constexpr uint32_t kFlushWindow = 64;
// Times an operation may come back without progress (EAGAIN, EINTR, a transfer shorter than a
// block) before its error is passed up.
inline constexpr unsigned kRetriesWithoutProgress = 64;
// A misaligned transfer goes through a buffer of this size, piece by piece: what a guest can make
// us take with kFileDeviceOps of them stays bounded.
inline constexpr uint32_t kBouncePieceBytes = 256U << 10U;
// Zeroes are written in pieces of this size where the file system cannot zero by itself.
inline constexpr uint32_t kZeroPieceBytes = 1U << 20U;
// Buffers of one request; the kernel takes no more (IOV_MAX).
inline constexpr uint32_t kMaxIovecs = 1024;
// The longest read or write of one request; the kernel cuts transfers at 2 GiB.
inline constexpr uint64_t kMaxTransferBytes = 1ULL << 30U;
// The longest discard or write-zeroes offered: one call of the kernel, which may be slow.
inline constexpr uint64_t kMaxRangeBytes = 1ULL << 30U;

// Copies of a copy-before-write snapshot in flight: as many as writes to cold grains gain from.
// Each has a buffer of so many bytes, or of a grain; what is never used is never touched.
inline constexpr uint32_t kCowCopies = 16;
inline constexpr uint32_t kCowCopyBytes = 256U << 10U;

// The longest read or write, UNMAP and WRITE SAME over SCSI: one command keeps its buffers, and
// others from running, no longer than that.
inline constexpr uint64_t kScsiMaxTransferBytes = 4U << 20U;
inline constexpr uint64_t kScsiMaxUnmapBytes = 512U << 20U;
inline constexpr uint64_t kScsiMaxWriteSameBytes = 32U << 20U;
// What SCSI commands in several steps move at a time; a multiple of every block size.
inline constexpr uint64_t kScsiPieceBytes = 256U << 10U;

}  // namespace plumb
