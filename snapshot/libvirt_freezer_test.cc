#include "snapshot/libvirt_freezer.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "snapshot/fake_domain.h"

namespace plumb {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLong{60'000};

struct Guest {
  FakeDomain domain;
  int awaited = 0;
  int given_back = 0;
  LibvirtFreezer freezer{{.domain = &domain,
                          .await_resumed = [this](auto) { ++awaited; },
                          .given_back = [this] { ++given_back; }}};
};

}  // namespace

TEST_CASE("a guest of libvirt is frozen and thawed, and libvirt is told how long to wait") {
  Guest guest;
  const GuestFacts facts = guest.freezer.facts(milliseconds(1500)).value();
  CHECK(facts.os.id == "debian");
  CHECK(facts.file_systems.front().mountpoint == "/data");
  CHECK_FALSE(facts.hooks.has_value());
  CHECK(guest.domain.has_heard("timeout 2"));
  CHECK(guest.freezer.freeze({}, kLong).value() == 2);
  CHECK(guest.domain.frozen);
  CHECK(guest.domain.has_heard("timeout 60"));
  const Thawed thawed = guest.freezer.thaw(kLong).value();
  CHECK(thawed.count == 2);
  CHECK(thawed.complaint.empty());
  CHECK_FALSE(guest.domain.frozen);
  CHECK(guest.awaited == 1);
  guest.freezer.give_back_port();
  CHECK(guest.domain.heard().back() == "timeout none");
  CHECK(guest.given_back == 1);
}

TEST_CASE("a wait is never zero, which to libvirt is not to wait for an answer") {
  Guest guest;
  REQUIRE(guest.freezer.freeze({"/data"}, milliseconds(0)).value() == 1);
  CHECK(guest.domain.has_heard("timeout 1"));
}

TEST_CASE("a guest of libvirt that someone else has frozen gives no facts, and stays frozen") {
  Guest guest;
  guest.domain.frozen = true;
  CHECK_FALSE(guest.freezer.facts(kLong).ok());
  CHECK(guest.domain.frozen);
}

TEST_CASE("a guest whose agent tells its system only is as good, one without an agent is not") {
  Guest guest;
  guest.domain.override_with([](const std::string& call) {
    return call == "os" ? Result<>(failed("no such command")) : Result<>();
  });
  CHECK(guest.freezer.facts(kLong).ok());
  guest.domain.override_with([](const std::string& call) {
    return call == "file_systems" ? Result<>(FakeDomain::no_answer()) : Result<>();
  });
  CHECK(guest.freezer.facts(kLong).error().os_errno == ETIMEDOUT);
}

TEST_CASE("a thaw that is not answered is an error, also when libvirt itself is gone") {
  Guest guest;
  REQUIRE(guest.freezer.freeze({}, kLong).ok());
  const std::string silent = GENERATE("thaw", "state");
  guest.domain.override_with([&](const std::string& call) {
    return call == silent ? Result<>(FakeDomain::no_answer()) : Result<>();
  });
  CHECK(guest.freezer.thaw(kLong).error().os_errno == ETIMEDOUT);
  CHECK(guest.domain.frozen);
}

TEST_CASE("a complaint of the first thaw is kept when the second one finds the guest thawed") {
  Guest guest;
  REQUIRE(guest.freezer.freeze({}, kLong).ok());
  int thaws = 0;
  guest.domain.override_with([&](const std::string& call) -> Result<> {
    if (call != "thaw" || ++thaws > 1) return {};
    guest.domain.frozen = false;
    return failed("couldn't hold writes");
  });
  const Thawed thawed = guest.freezer.thaw(kLong).value();
  CHECK(thawed.count == 0);
  CHECK(thawed.complaint == "couldn't hold writes");
}

TEST_CASE("what is shut off is not frozen, but what is suspended may be") {
  Guest guest;
  REQUIRE(guest.freezer.freeze({}, kLong).ok());
  guest.domain.is = LibvirtDomain::State::kPaused;
  CHECK_FALSE(guest.freezer.thaw(kLong).ok());
  guest.domain.is = LibvirtDomain::State::kOff;
  CHECK(guest.freezer.thaw(kLong).value().complaint == "the domain was shut off meanwhile");
}

TEST_CASE("only QEMU on this host is taken: its disks are here") {
  for (const char* good : {"qemu:///system", "qemu:///session", "qemu:///embed?root=/x",
                           "qemu+unix:///system?socket=/run/x"}) {
    CHECK(check_libvirt_uri(good).ok());
  }
  for (const char* bad : {"", "qemu", "db1", "qemu+ssh://host/system", "qemu://host/system",
                          "lxc:///system", "test:///default", "qemu+tls:///system"}) {
    INFO(bad);
    CHECK(check_libvirt_uri(bad).error().kind == ErrorKind::kUsage);
  }
}

}  // namespace plumb
