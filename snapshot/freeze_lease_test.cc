#include "snapshot/freeze_lease.h"

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "snapshot/fake_guest.h"
#include "snapshot/lease_client.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr int kLongMs = 60'000;  // for what must answer: far beyond what it takes

LeaseClient begun(FakeGuest& guest) {
  LeaseClient client(guest.connect());
  REQUIRE(client.call("begin", {{"owner", "a test"}}, kLongMs).value() == Json{{"vm", "db1"}});
  return client;
}

Json freeze_for(int limit_ms) {
  return {{"mountpoints", Json::array()}, {"timeout_ms", kLongMs}, {"limit_ms", limit_ms}};
}
Json within(int timeout_ms) { return {{"timeout_ms", timeout_ms}}; }
Json limit(int limit_ms) { return {{"limit_ms", limit_ms}}; }

}  // namespace

TEST_CASE("a lease freezes, holds, releases and thaws, and says how long each took") {
  FakeGuest guest;
  guest.start();
  LeaseClient owner = begun(guest);
  CHECK(owner.call("guest", within(kLongMs), kLongMs).value()["agent"] == "7.2.22");
  CHECK(guest.journal().empty());
  CHECK(owner.call("freeze", freeze_for(kLongMs), kLongMs).value()["frozen"] == 2);
  CHECK(guest.agent.frozen());
  CHECK(guest.journal() == "by a test");
  CHECK(guest.status()["state"] == "frozen");
  CHECK(owner.call("hold", limit(kLongMs), kLongMs).ok());
  CHECK(guest.disks.is_held);
  CHECK(guest.status()["held"] == true);
  CHECK(owner.call("release", Json::object(), kLongMs).value().contains("held_us"));
  CHECK_FALSE(guest.disks.is_held);
  const Json thawed = owner.call("thaw", within(kLongMs), kLongMs).value();
  CHECK(thawed["thawed"] == 2);
  CHECK_FALSE(guest.agent.frozen());
  CHECK(guest.journal().empty());
}

TEST_CASE("the journal says so before the guest is told to freeze") {
  FakeGuest guest;
  std::string journal_then;
  guest.agent.override_with([&](const std::string& command, const Json&, std::string&) {
    if (command == "guest-fsfreeze-freeze") journal_then = guest.journal();
    return false;
  });
  guest.start();
  LeaseClient owner = begun(guest);
  REQUIRE(owner.call("freeze", freeze_for(kLongMs), kLongMs).ok());
  CHECK(journal_then == "by a test");
}

TEST_CASE("when the owner dies, disks are released and the guest is thawed") {
  FakeGuest guest;
  guest.start();
  {
    LeaseClient owner = begun(guest);
    REQUIRE(owner.call("freeze", freeze_for(kLongMs), kLongMs).ok());
    REQUIRE(owner.call("hold", limit(kLongMs), kLongMs).ok());
  }
  guest.wait_until_idle();
  CHECK_FALSE(guest.disks.is_held);
  CHECK_FALSE(guest.agent.frozen());
  CHECK(guest.journal().empty());
  CHECK(guest.events().front() ==
        "a test went away without thawing the guest, which is thawed now");
}

TEST_CASE("an owner who dies while the guest freezes leaves it thawed") {
  FakeGuest guest;
  std::promise<void> asked;
  std::promise<void> gone;
  guest.agent.override_with([&](const std::string& command, const Json&, std::string&) {
    if (command != "guest-fsfreeze-freeze") return false;
    asked.set_value();
    gone.get_future().wait();
    return false;
  });
  guest.start();
  {
    LeaseClient owner = begun(guest);
    REQUIRE(owner.ask("freeze", freeze_for(kLongMs)).ok());
    asked.get_future().wait();
  }
  gone.set_value();
  guest.wait_until_idle();
  CHECK_FALSE(guest.agent.frozen());
}

TEST_CASE("when its time is over, a lease ends, and its owner is told so") {
  FakeGuest guest;
  guest.start();
  LeaseClient owner = begun(guest);
  REQUIRE(owner.call("freeze", freeze_for(100), kLongMs).ok());
  REQUIRE(owner.call("hold", limit(kLongMs), kLongMs).ok());
  while (guest.agent.frozen() || guest.disks.is_held) std::this_thread::yield();
  Result<Json> released = owner.call("release", Json::object(), kLongMs);
  REQUIRE_FALSE(released.ok());
  CHECK(released.error().os_errno == ETIME);
  CHECK(released.error().message.find("longer than was agreed") != std::string::npos);
  CHECK_FALSE(owner.call("freeze", freeze_for(kLongMs), kLongMs).ok());
}

TEST_CASE("disks are held no longer than was agreed, frozen or not") {
  FakeGuest guest;
  guest.start();
  LeaseClient owner = begun(guest);
  REQUIRE(owner.call("hold", limit(100), kLongMs).ok());
  while (guest.disks.is_held) std::this_thread::yield();
  CHECK_FALSE(owner.call("release", Json::object(), kLongMs).ok());
}

TEST_CASE("an agent that does not answer the thaw is told again until it does") {
  FakeGuest guest;
  std::atomic<bool> deaf = true;
  guest.agent.override_with([&](const std::string& command, const Json&, std::string& said) {
    if (command != "guest-fsfreeze-thaw" || !deaf) return false;
    said = FakeAgent::error("later");
    return true;
  });
  guest.start();
  LeaseClient owner = begun(guest);
  REQUIRE(owner.call("freeze", freeze_for(kLongMs), kLongMs).ok());
  Result<Json> thawed = owner.call("thaw", within(100), kLongMs);
  REQUIRE_FALSE(thawed.ok());
  CHECK(thawed.error().os_errno == ETIMEDOUT);
  CHECK(thawed.error().message.find("still frozen") != std::string::npos);
  CHECK(guest.status()["state"] == "thawing");
  CHECK(guest.status()["error"].get<std::string>().find("later") != std::string::npos);
  CHECK_FALSE(guest.journal().empty());
  deaf = false;
  CHECK(owner.call("thaw", within(kLongMs), kLongMs).ok());
  CHECK(guest.journal().empty());
}

TEST_CASE("a refused freeze leaves the guest thawed, even when the agent has lost count") {
  FakeGuest guest;
  guest.agent.override_with([&](const std::string& command, const Json&, std::string& said) {
    if (command != "guest-fsfreeze-freeze") return false;
    guest.agent.set_frozen(true);
    said = FakeAgent::error("failed, or so I think");
    return true;
  });
  guest.start();
  LeaseClient owner = begun(guest);
  Result<Json> frozen = owner.call("freeze", freeze_for(kLongMs), kLongMs);
  REQUIRE_FALSE(frozen.ok());
  while (guest.agent.frozen()) std::this_thread::yield();
  CHECK(owner.call("hold", limit(kLongMs), kLongMs).ok());
  CHECK(owner.call("release", Json::object(), kLongMs).ok());
}

TEST_CASE("disks that do not get quiet are an error, and the guest is still frozen") {
  FakeGuest guest;
  guest.disks.busy = true;
  guest.start();
  LeaseClient owner = begun(guest);
  REQUIRE(owner.call("freeze", freeze_for(kLongMs), kLongMs).ok());
  Result<Json> held = owner.call("hold", limit(kLongMs), kLongMs);
  REQUIRE_FALSE(held.ok());
  CHECK(held.error().message == "disk data is busy");
  CHECK(guest.agent.frozen());
  CHECK(owner.call("thaw", within(kLongMs), kLongMs).ok());
}

TEST_CASE("a second owner is refused, and told who the first one is") {
  FakeGuest guest;
  guest.start();
  LeaseClient owner = begun(guest);
  LeaseClient second(guest.connect());
  Result<Json> begun = second.call("begin", {{"owner", "another"}}, kLongMs);
  REQUIRE_FALSE(begun.ok());
  CHECK(begun.error().kind == ErrorKind::kLocked);
  CHECK(begun.error().message.starts_with("a test has the guest's disks"));
  CHECK(owner.call("hold", limit(kLongMs), kLongMs).ok());
}

TEST_CASE("a guest that was left frozen is thawed when its process starts again") {
  FakeGuest guest;
  REQUIRE(FreezeJournal::open(guest.journal_path).value().write("by someone").ok());
  guest.agent.set_frozen(true);
  guest.start();
  guest.wait_until_idle();
  CHECK_FALSE(guest.agent.frozen());
  CHECK(guest.journal().empty());
}

TEST_CASE("requests that cannot be are refused and change nothing") {
  FakeGuest guest;
  guest.start();
  LeaseClient early(guest.connect());
  CHECK_FALSE(early.call("freeze", freeze_for(kLongMs), kLongMs).ok());
  LeaseClient owner = begun(guest);
  for (const Json& bad : {Json::object(), Json{{"timeout_ms", "1"}}, Json{{"timeout_ms", -1}},
                          Json{{"timeout_ms", 1e12}}, Json{{"timeout_ms", 1}},
                          Json{{"timeout_ms", 1}, {"limit_ms", 1}, {"mountpoints", {1}}},
                          Json{{"timeout_ms", 1}, {"limit_ms", 99999999}}}) {
    INFO(bad.dump());
    CHECK_FALSE(owner.call("freeze", bad, kLongMs).ok());
  }
  CHECK_FALSE(owner.call("begin", {{"owner", "again"}}, kLongMs).ok());
  CHECK_FALSE(owner.call("release", Json::object(), kLongMs).ok());
  CHECK_FALSE(owner.call("thaw", within(1), kLongMs).ok());
  CHECK_FALSE(owner.call("melt", within(1), kLongMs).ok());
  CHECK(guest.agent.heard().empty());
  CHECK(guest.status()["state"] == "open");
}

TEST_CASE("a peer that speaks out of turn, or nonsense, loses its connection and its lease") {
  FakeGuest guest;
  guest.start();
  const UniqueFd socket = guest.connect();
  const std::string text = GENERATE(std::string("no JSON"), std::string("[]"), std::string("7"));
  REQUIRE(::send(socket.get(), text.data(), text.size(), 0) > 0);
  Result<Json> answer = receive_answer(socket.get(), 65536, kLongMs);
  CHECK_FALSE(answer.ok());
  guest.wait_until_idle();
}

TEST_CASE("overlays are given and taken while disks are held, and not otherwise") {
  FakeGuest guest;
  guest.start();
  LeaseClient owner = begun(guest);
  const UniqueFd some = make_eventfd().value();
  const std::array<int, 1> fds{some.get()};
  const Json keep{{"overlays", {{{"disk", "data"}, {"label", "plumb-1"}}}}};
  const Json let_go{{"uuid", "3f2504e0"}};
  CHECK_FALSE(owner.call("keep", keep, kLongMs, fds).ok());
  CHECK_FALSE(owner.call("let-go", let_go, kLongMs).ok());
  REQUIRE(owner.call("hold", limit(kLongMs), kLongMs).ok());
  CHECK(owner.call("keep", keep, kLongMs, fds).ok());
  CHECK(owner.call("let-go", let_go, kLongMs).ok());
  CHECK(guest.disks.kept == 1);
  CHECK(guest.disks.let_go_of == 1);
  CHECK_FALSE(owner.call("keep", keep, kLongMs).ok());
  CHECK_FALSE(owner.call("keep", {{"overlays", 7}}, kLongMs, fds).ok());
  CHECK_FALSE(owner.call("keep", {{"overlays", {"data"}}}, kLongMs, fds).ok());
  guest.disks.keeps_badly = true;
  CHECK_THAT(owner.call("keep", keep, kLongMs, fds).error().message,
             Catch::Contains("cannot be flushed"));
  REQUIRE(owner.call("release", Json::object(), kLongMs).ok());
  CHECK_FALSE(owner.call("keep", keep, kLongMs, fds).ok());
  CHECK(guest.disks.kept == 2);
}

}  // namespace plumb
