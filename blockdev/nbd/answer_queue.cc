#include "blockdev/nbd/answer_queue.h"

#include <algorithm>
#include <utility>

namespace plumb::nbd {

void AnswerQueue::push(Answer answer) {
  answer.held_bytes += sizeof(Answer) + answer.head.size();
  held_bytes_ += answer.held_bytes;
  answers_.push_back(std::move(answer));
}

Moved::Outcome AnswerQueue::send(Transport& transport) {
  while (!answers_.empty()) {
    Answer& next = answers_.front();
    const size_t of_head = std::min(sent_, next.head.size());
    const size_t of_data = sent_ - of_head;
    const iovec parts[] = {
        {next.head.data() + of_head, next.head.size() - of_head},
        {const_cast<std::byte*>(next.data) + of_data, next.data_bytes - of_data},
    };
    const Moved moved = transport.send(parts);
    if (moved.outcome != Moved::Outcome::kSome) return moved.outcome;
    sent_ += moved.bytes;
    if (sent_ < next.head.size() + next.data_bytes) continue;
    sent_ = 0;
    held_bytes_ -= next.held_bytes;
    answers_.pop_front();
  }
  return Moved::Outcome::kSome;
}

}  // namespace plumb::nbd
