#include "blockdev/io_loop.h"

#include <catch2/catch.hpp>

namespace plumb {
namespace {

constexpr int64_t kMaxNs = 100'000;

// How many of `waits` were looked for, when looking takes `looked_ns` and sleeping `slept_ns`.
unsigned looked_for(CompletionPoll& poll, unsigned waits, int64_t looked_ns, int64_t slept_ns) {
  unsigned looked = 0;
  for (unsigned i = 0; i < waits; ++i) {
    const bool looks = poll.worth_looking();
    looked += looks ? 1 : 0;
    poll.learn(looks ? looked_ns : slept_ns);
  }
  return looked;
}

}  // namespace

TEST_CASE("completions are looked for where that is clearly quicker, and tried where it is not") {
  CompletionPoll poll;
  CHECK(looked_for(poll, 5120, 50'000, 75'000) > 4900);
  CHECK(looked_for(poll, 5120, 150'000, 110'000) <= 160);
  CHECK(looked_for(poll, 5120, 72'000, 75'000) <= 160);
  CHECK(looked_for(poll, 5120, 50'000, 75'000) > 4900);
}

TEST_CASE("a stall during a trial does not decide") {
  CompletionPoll poll;
  bool first = true;
  unsigned looked = 0;
  for (unsigned i = 0; i < 512; ++i) {
    const bool looks = poll.worth_looking();
    looked += looks ? 1 : 0;
    poll.learn(looks && std::exchange(first, false) ? 1'000'000'000 : looks ? 20'000 : 150'000);
  }
  CHECK(looked > 480);
}

TEST_CASE("looking for work grows when it came soon after, and ends when it does not come") {
  AdaptivePoll poll;
  CHECK(poll.ns() == 0);
  poll.learn(30'000, false, kMaxNs);
  CHECK(poll.ns() > 0);
  for (int i = 0; i < 10; ++i) poll.learn(90'000, true, kMaxNs);
  CHECK(poll.ns() == kMaxNs);
  // It came while we looked: nothing to change.
  poll.learn(10'000, false, kMaxNs);
  CHECK(poll.ns() == kMaxNs);
  // Late, but we were not looking: no reason to stop.
  poll.learn(kForever, false, kMaxNs);
  CHECK(poll.ns() == kMaxNs);
  for (int i = 0; i < 10; ++i) poll.learn(kForever, true, kMaxNs);
  CHECK(poll.ns() == 0);
}

}  // namespace plumb
