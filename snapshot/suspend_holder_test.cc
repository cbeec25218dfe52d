#include "snapshot/suspend_holder.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <catch2/catch.hpp>
#include <future>
#include <optional>
#include <vector>

#include "base/file.h"
#include "snapshot/fake_domain.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

using State = LibvirtDomain::State;

constexpr std::chrono::milliseconds kLong{60'000};

// A domain, its holder, and the context that the test turns.
struct Rig {
  explicit Rig(bool needed = true) : needed_(needed) {}

  SuspendHolder& start() {
    return holder.emplace(
        SuspendHolder::Config{.context = &context,
                              .domain = &domain,
                              .journal = &journal,
                              .needed = needed_,
                              .event = [this](const std::string& one) { events.push_back(one); },
                              .resumed = [this] { ++resumed; },
                              .retry = std::chrono::milliseconds(5)});
  }
  template <typename Until>
  void turn(Until until) {
    while (!until()) context.run_one();
  }
  Result<> hold(std::chrono::milliseconds limit = kLong) {
    std::optional<Result<>> held;
    holder->hold(limit, [&](Result<> result) { held = std::move(result); });
    turn([&] { return held.has_value(); });
    return *held;
  }
  std::string journal_text() const { return read_file(folder.path() + "/suspended").value(); }

  TemporaryFolder folder;
  boost::asio::io_context context;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{
      context.get_executor()};
  FakeDomain domain;
  FreezeJournal journal = FreezeJournal::open(folder.path() + "/suspended").value();
  std::vector<std::string> events;
  int resumed = 0;
  std::optional<SuspendHolder> holder;

 private:
  bool needed_;
};

}  // namespace

TEST_CASE("a guest is suspended while its disks are held, and the journal says so first") {
  Rig rig;
  std::string journal_then;
  rig.domain.override_with([&](const std::string& call) -> Result<> {
    if (call == "suspend") journal_then = rig.journal_text();
    return {};
  });
  rig.start();
  REQUIRE(rig.hold().ok());
  CHECK(journal_then == "suspended");
  CHECK(rig.domain.is == State::kPaused);
  CHECK(rig.holder->busy());
  rig.holder->release();
  rig.turn([&] { return !rig.holder->busy(); });
  rig.holder->await_resumed(kLong);
  CHECK(rig.domain.is == State::kRunning);
  CHECK(rig.journal_text().empty());
  CHECK(rig.resumed == 1);
}

TEST_CASE("with one disk nothing is suspended") {
  Rig rig(false);
  rig.start();
  REQUIRE(rig.hold().ok());
  rig.holder->release();
  CHECK_FALSE(rig.holder->busy());
  CHECK(rig.domain.heard().empty());
}

TEST_CASE("a guest that somebody else has suspended is left so") {
  Rig rig;
  rig.domain.is = State::kPaused;
  rig.start();
  REQUIRE(rig.hold().ok());
  rig.holder->release();
  rig.turn([&] { return !rig.holder->busy(); });
  CHECK(rig.domain.is == State::kPaused);
  CHECK_FALSE(rig.domain.has_heard("resume"));
}

TEST_CASE("a hold that is given up while the guest is being suspended leaves it running") {
  Rig rig;
  std::promise<void> asked;
  std::promise<void> gone;
  rig.domain.override_with([&](const std::string& call) -> Result<> {
    if (call != "suspend") return {};
    asked.set_value();
    gone.get_future().wait();
    return {};
  });
  rig.start();
  bool called = false;
  rig.holder->hold(kLong, [&](Result<>) { called = true; });
  asked.get_future().wait();
  rig.holder->release();
  gone.set_value();
  rig.turn([&] { return !rig.holder->busy(); });
  CHECK(rig.domain.is == State::kRunning);
  CHECK_FALSE(called);
}

TEST_CASE("a suspend that was not answered, or came too late, is undone") {
  Rig rig;
  const bool late = GENERATE(false, true);
  rig.domain.override_with([&](const std::string& call) -> Result<> {
    if (call != "suspend" || late) return {};
    rig.domain.is = State::kPaused;
    return FakeDomain::no_answer();
  });
  rig.start();
  // What takes any time at all is late.
  CHECK_FALSE(rig.hold(late ? std::chrono::milliseconds(-1) : kLong).ok());
  rig.turn([&] { return !rig.holder->busy(); });
  CHECK(rig.domain.is == State::kRunning);
  CHECK(rig.journal_text().empty());
}

TEST_CASE("a guest that does not resume is told again until it does") {
  Rig rig;
  rig.start();
  REQUIRE(rig.hold().ok());
  std::atomic<int> refusals = 0;
  std::atomic<bool> room = false;
  rig.domain.override_with([&](const std::string& call) -> Result<> {
    if (call != "resume" || room) return {};
    ++refusals;
    return failed("no room");
  });
  rig.holder->release();
  rig.turn([&] { return refusals >= 2; });
  CHECK(rig.journal_text() == "suspended");
  CHECK_FALSE(rig.hold().ok());
  room = true;
  rig.turn([&] { return !rig.holder->busy(); });
  CHECK(rig.domain.is == State::kRunning);
  REQUIRE(rig.events.size() == 2);
  CHECK(rig.events.front().ends_with(": no room"));
  CHECK(rig.events.back() == "the guest is resumed");
}

TEST_CASE("a guest that was left suspended is resumed by the next holder") {
  Rig rig;
  REQUIRE(rig.journal.write("suspended").ok());
  rig.domain.is = GENERATE(State::kPaused, State::kOff, State::kRunning);
  const bool paused = rig.domain.is == State::kPaused;
  rig.start();
  rig.turn([&] { return !rig.holder->busy(); });
  CHECK(rig.domain.has_heard("resume") == paused);
  CHECK(rig.journal_text().empty());
}

TEST_CASE("a domain that is shut off cannot be held") {
  Rig rig;
  rig.domain.is = State::kOff;
  rig.start();
  CHECK_FALSE(rig.hold().ok());
  rig.turn([&] { return !rig.holder->busy(); });
}

}  // namespace plumb
