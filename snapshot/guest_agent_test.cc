#include "snapshot/guest_agent.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "snapshot/agent_freezer.h"
#include "snapshot/fake_agent.h"

namespace plumb {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

// For what must answer: far beyond what it takes.
constexpr milliseconds kLong{60'000};
// For what never answers.
constexpr milliseconds kShort{50};

GuestAgent::Config to(FakeAgent& fake) {
  return {.connect = [&fake]() -> Result<UniqueFd> { return fake.connect(); }};
}

// Answers `command` with `answer`, the first `times` times.
FakeAgent::Override says(std::string command, std::string answer, int times = 1'000'000) {
  return [=, left = times](const std::string& asked, const Json&, std::string& said) mutable {
    if (asked != command || left-- <= 0) return false;
    said = answer;
    return true;
  };
}

}  // namespace

TEST_CASE("an agent is asked what it is, frozen and thawed") {
  FakeAgent fake;
  GuestAgent agent(to(fake));
  const AgentInfo info = agent.info(kLong).value();
  CHECK(info.version == "7.2.22");
  CHECK(info.can("guest-fsfreeze-freeze"));
  CHECK_FALSE(info.can("guest-exec"));
  CHECK(agent.os(kLong).value().id == "debian");
  CHECK_FALSE(agent.frozen(kLong).value());
  CHECK(agent.freeze({}, kLong).value() == 2);
  CHECK(fake.frozen());
  CHECK(agent.frozen(kLong).value());
  CHECK(agent.thaw(kLong).value() == 2);
  CHECK_FALSE(fake.frozen());
}

TEST_CASE("chosen mount points are frozen by the command for them") {
  FakeAgent fake;
  GuestAgent agent(to(fake));
  CHECK(agent.freeze({"/data"}, kLong).ok());
  CHECK(fake.heard().back() == "guest-fsfreeze-freeze-list");
}

TEST_CASE("an agent that is silent ends the call at its timeout, in a sentence") {
  FakeAgent fake;
  fake.override_with([](const std::string&, const Json&, std::string& said) {
    said.clear();
    return true;
  });
  GuestAgent agent(to(fake));
  Result<> done = agent.sync(kShort);
  REQUIRE_FALSE(done.ok());
  CHECK(done.error().os_errno == ETIMEDOUT);
  CHECK(done.error().message.find("install and start qemu-guest-agent") != std::string::npos);
}

TEST_CASE("an answer that comes too late is not taken for the next one") {
  FakeAgent fake;
  GuestAgent agent(to(fake));
  REQUIRE(agent.sync(kLong).ok());
  // Says nothing to the freeze, and its answer before the one to the next request.
  fake.override_with([](const std::string& command, const Json& arguments, std::string& said) {
    if (command.starts_with("guest-fsfreeze-freeze")) return true;
    if (command != "guest-sync-delimited") return false;
    said = FakeAgent::ok(77) + "\xff" + FakeAgent::ok(arguments.at("id"));
    return true;
  });
  Result<unsigned> late = agent.freeze({}, kShort);
  REQUIRE_FALSE(late.ok());
  CHECK(late.error().os_errno == ETIMEDOUT);
  CHECK_FALSE(agent.frozen(kLong).value());
}

TEST_CASE("answers to those who had the port before are passed over") {
  FakeAgent fake;
  const std::string old = FakeAgent::ok(1) + "{\"return\": 5}\n{\"half";
  fake.override_with([old, first = true](const std::string& command, const Json& arguments,
                                         std::string& said) mutable {
    if (command != "guest-sync-delimited" || !std::exchange(first, false)) return false;
    said = old + "\xff" + FakeAgent::ok(arguments.at("id"));
    return true;
  });
  GuestAgent agent(to(fake));
  CHECK(agent.thaw(kLong).value() == 0);
}

TEST_CASE("an agent that floods is listened to no longer than one that is silent") {
  FakeAgent fake;
  SECTION("with lines") {
    fake.override_with(says("guest-sync-delimited", FakeAgent::ok("noise") + FakeAgent::ok(3)));
  }
  SECTION("with one line that has no end") {
    fake.override_with(says("guest-sync-delimited", std::string(3U << 20U, 'x')));
  }
  GuestAgent agent(to(fake));
  Result<> done = agent.sync(milliseconds(300));
  REQUIRE_FALSE(done.ok());
  CHECK((done.error().os_errno == ETIMEDOUT || done.error().os_errno == EPROTO));
}

TEST_CASE("an agent that dies is told from one that is silent, and its successor is asked") {
  FakeAgent fake;
  bool first = true;
  GuestAgent agent({.connect = [&]() -> Result<UniqueFd> {
    if (!std::exchange(first, false)) return fake.connect();
    UniqueFd dead = fake.connect();
    ::shutdown(dead.get(), SHUT_RDWR);
    return dead;
  }});
  Result<> done = agent.sync(kLong);
  REQUIRE_FALSE(done.ok());
  CHECK(done.error().os_errno == EPIPE);
  CHECK(agent.sync(kLong).ok());
}

TEST_CASE("a refusal is given in the agent's words, made printable") {
  FakeAgent fake;
  fake.override_with(says("guest-fsfreeze-freeze", FakeAgent::error("no \x1b[2J way")));
  GuestAgent agent(to(fake));
  Result<unsigned> refused = agent.freeze({}, kLong);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().os_errno == 0);
  CHECK(refused.error().message ==
        "the guest agent refuses guest-fsfreeze-freeze: no \\x1b[2J way");
}

TEST_CASE("nonsense is no answer") {
  for (const char* nonsense :
       {"", "7", "[]", "{", "{}", R"({"return")", R"({"error": 1})", R"({"return": "two"})",
        R"({"return": -1})", R"({"return": 99999999999999})", R"({"return": null})", "\x01\x02\x03",
        R"({"return": {"return": 2}})"}) {
    INFO(nonsense);
    FakeAgent fake;
    fake.override_with(says("guest-fsfreeze-freeze", std::string(nonsense) + "\n"));
    GuestAgent agent(to(fake));
    Result<unsigned> frozen = agent.freeze({}, kLong);
    REQUIRE_FALSE(frozen.ok());
    CHECK(frozen.error().os_errno == EPROTO);
    CHECK(frozen.error().message.find("is no answer") != std::string::npos);
  }
}

TEST_CASE("whoever waits for an agent can be called off") {
  FakeAgent fake;
  fake.override_with(says("guest-sync-delimited", ""));
  const UniqueFd cancel = make_eventfd().value();
  GuestAgent::Config config = to(fake);
  config.cancel_fd = cancel.get();
  GuestAgent agent(std::move(config));
  signal_eventfd(cancel.get());
  Result<> done = agent.sync(kLong);
  REQUIRE_FALSE(done.ok());
  CHECK(done.error().os_errno == ECANCELED);
}

TEST_CASE(
    "a guest that is frozen already, or cannot be frozen, is told of before anything is done") {
  FakeAgent fake;
  AgentFreezer freezer(to(fake));
  SECTION("frozen by someone else") {
    fake.set_frozen(true);
    Result<GuestFacts> facts = freezer.facts(kLong);
    REQUIRE_FALSE(facts.ok());
    CHECK(facts.error().os_errno == EBUSY);
    CHECK(fake.frozen());
  }
  SECTION("a command is blocked") {
    fake.override_with(says(
        "guest-info", FakeAgent::ok({{"version", "5.2"},
                                     {"supported_commands",
                                      {{{"name", "guest-fsfreeze-status"}, {"enabled", true}},
                                       {{"name", "guest-fsfreeze-freeze"}, {"enabled", false}},
                                       {{"name", "guest-fsfreeze-thaw"}, {"enabled", true}}}}})));
    Result<GuestFacts> facts = freezer.facts(kLong);
    REQUIRE_FALSE(facts.ok());
    CHECK(facts.error().message.find("does not offer guest-fsfreeze-freeze") != std::string::npos);
  }
}

TEST_CASE("a thaw is believed when the guest says that it is thawed") {
  FakeAgent fake;
  AgentFreezer freezer(to(fake));
  REQUIRE(freezer.freeze({}, kLong).ok());
  SECTION("VSS complains, and the guest is thawed") {
    fake.override_with([&](const std::string& command, const Json&, std::string& said) {
      if (command != "guest-fsfreeze-thaw") return false;
      fake.set_frozen(false);
      said = FakeAgent::error("couldn't hold writes: fsfreeze is limited up to 10 seconds");
      return true;
    });
    const Thawed thawed = freezer.thaw(kLong).value();
    CHECK(thawed.complaint.find("limited up to 10 seconds") != std::string::npos);
  }
  SECTION("it lies") {
    fake.override_with(says("guest-fsfreeze-thaw", FakeAgent::ok(2)));
    Result<Thawed> thawed = freezer.thaw(kLong);
    REQUIRE_FALSE(thawed.ok());
    CHECK(thawed.error().message.find("still frozen") != std::string::npos);
  }
  SECTION("it refuses, and is frozen") {
    fake.override_with(says("guest-fsfreeze-thaw", FakeAgent::error("no")));
    CHECK_FALSE(freezer.thaw(kLong).ok());
  }
}

}  // namespace plumb
