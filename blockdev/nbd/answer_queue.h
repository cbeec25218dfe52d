// What a connection sends, in order, as fast as its client takes it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "base/aligned_memory.h"
#include "blockdev/nbd/protocol.h"
#include "blockdev/nbd/transport.h"

namespace plumb::nbd {

// A head, and the data behind it.
struct Answer {
  Bytes head;
  AlignedMemory memory;  // where the data of this answer, and of those just before it, is; or none
  const std::byte* data = nullptr;
  size_t data_bytes = 0;
  uint64_t held_bytes = 0;  // counted as held until it has left; its own size is added by push()
};

class AnswerQueue {
 public:
  void push(Answer answer);
  bool empty() const { return answers_.empty(); }
  void clear() { answers_.clear(); }
  // Of all that is in it.
  uint64_t held_bytes() const { return held_bytes_; }

  // Sends until all has left (kSome), or what else ended it.
  Moved::Outcome send(Transport& transport);

 private:
  std::deque<Answer> answers_;
  size_t sent_ = 0;  // of the first, head and data
  uint64_t held_bytes_ = 0;
};

}  // namespace plumb::nbd
