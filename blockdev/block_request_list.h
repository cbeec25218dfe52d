// A FIFO of block requests, linked through BlockRequest::next: no memory of its own.
#pragma once

#include "blockdev/block_device.h"

namespace plumb {

class BlockRequestList {
 public:
  bool empty() const { return first_ == nullptr; }
  // The others follow by BlockRequest::next; nullptr when empty.
  BlockRequest* first() const { return first_; }

  void push(BlockRequest& request) {
    request.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &request;
    last_ = &request;
  }

  // nullptr when empty.
  BlockRequest* pop() {
    BlockRequest* request = first_;
    if (request != nullptr) first_ = request->next;
    return request;
  }

  void push_all(BlockRequestList& other) {
    while (BlockRequest* request = other.pop()) push(*request);
  }

  // False when `request` is not in the list. Walks it.
  bool remove(BlockRequest& request) {
    BlockRequest* before = nullptr;
    for (BlockRequest* at = first_; at != nullptr; before = at, at = at->next) {
      if (at != &request) continue;
      (before == nullptr ? first_ : before->next) = at->next;
      if (last_ == at) last_ = before;
      return true;
    }
    return false;
  }

 private:
  BlockRequest* first_ = nullptr;
  BlockRequest* last_ = nullptr;
};

}  // namespace plumb
