// Recovery over an image that stands for a LUN, whose errors are injected, with a keeper that says
// what the test wants. The lab has the real ones (path-loss, lun-swaps).
#include "cli/lun_recovery.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <catch2/catch.hpp>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <optional>
#include <semaphore>
#include <utility>

#include "base/message_socket.h"
#include "cli/source_message.h"
#include "tests/fakes/block_client.h"
#include "tests/fakes/recording_engine.h"
#include "tests/fakes/test_image.h"

namespace plumb {
namespace {

using Catch::Matchers::Contains;
using State = LunFinding::State;

constexpr const char* kWwn = "naa.60014051234abcd5000000000000000a";
constexpr uint64_t kSize = 1U << 20U;

DiskSource source_on(const TestImage& image) {
  DiskSource source;
  source.fd = image.open();
  source.label = std::string("LUN ") + kWwn;
  source.device = image.path();
  source.wwn = kWwn;
  source.facts = FileDevice::examine({.fd = source.fd.get(), .label = source.label}).value();
  return source;
}

// Descriptors that this process has of the file.
size_t open_count(const std::string& path) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    count += std::filesystem::read_symlink(entry.path(), error) == path ? 1 : 0;
  }
  return count;
}

// Answers each look with the next of `script`, the last one for ever.
class ScriptedKeeper {
 public:
  ScriptedKeeper() {
    int ends[2];
    ENSURE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    vm_end = UniqueFd(ends[0]);
    end_ = UniqueFd(ends[1]);
  }

  // Answers what has come.
  void serve() {
    pollfd waiting{.fd = end_.get(), .events = POLLIN, .revents = 0};
    while (::poll(&waiting, 1, 0) > 0) {
      const ReceivedMessage message = receive_message(end_.get(), kKeeperMessageLimit).value();
      if (message.bytes.empty()) return;
      const KeeperRequest request = decode_keeper_request(message.bytes).value();
      if (request.action == KeeperRequest::Action::kWatch) ++watches;
      if (request.action != KeeperRequest::Action::kLook) continue;
      ++looks;
      tell(KeeperReport::About::kLook, script.front());
      if (news_after_look) tell(KeeperReport::About::kNews, *std::exchange(news_after_look, {}));
      if (script.size() > 1) script.pop_front();
    }
  }
  void tell(KeeperReport::About about, State state) {
    KeeperReport report{
        .about = about, .disk = "data", .finding = {.state = state, .reason = "so it is"}};
    std::vector<int> fds;
    if (state == State::kNew) {
      report.finding.source = source_on(*new_image);
      fds = source_fds(*report.finding.source);
    }
    ENSURE(send_message(end_.get(), encode_keeper_report(report), fds).ok());
  }
  void end() { end_.reset(); }

  UniqueFd vm_end;
  std::deque<State> script{State::kWell};
  std::optional<State> news_after_look;  // told once
  const TestImage* new_image = nullptr;
  int watches = 0;
  int looks = 0;

 private:
  UniqueFd end_;
};

struct Fixture {
  explicit Fixture(const std::string& on_error = "pause", unsigned path_timeout_s = 0,
                   std::chrono::milliseconds stuck_after = std::chrono::hours(1)) {
    definition.disks.push_back(
        {.id = "data", .lun = kWwn, .on_error = on_error, .path_timeout_s = path_timeout_s});
    std::vector<DiskSource> sources;
    sources.push_back(source_on(image));
    const auto failed = [this](const VmDisks::Failure& failure) {
      boost::asio::post(context, [this, failure] {
        recovery->on_error(failure.disk, failure.error, failure.stopped, failure.message);
      });
    };
    disks.emplace(
        VmDisks::open(
            definition, std::move(sources),
            {.failed = failed,
             .connect_to_broker = {},
             .decorate = [this](std::unique_ptr<IoEngine> below) -> std::unique_ptr<IoEngine> {
               return std::make_unique<RecordingEngine>(std::move(below), log);
             }})
            .value());
    recovery = std::make_unique<LunRecovery>(
        context,
        LunRecovery::Config{.disks = &*disks,
                            .keeper = std::move(keeper.vm_end),
                            .event = [this](const std::string& kind, const std::string&,
                                            const std::string&) { events.push_back(kind); },
                            .grown = [](const std::string&) {},
                            .trouble_changed = [] {},
                            .look_every = std::chrono::milliseconds(1),
                            .stuck_after = stuck_after});
    client = std::make_unique<BlockClient<Disk>>(disks->at(0), disks->at(0).thread());
    buffer.fill_pattern(3);
    request.op = BlockOp::kWrite;
    request.set_parts({buffer.part(0, 4096)});
  }

  void fail_writes(int error, unsigned times) { log.inject({IoOpKind::kWrite, -error}, times); }
  // Turns the VM's loop until that is so.
  template <typename Condition>
  void until(const Condition& condition) {
    while (!condition()) {
      keeper.serve();
      context.restart();
      context.run_for(std::chrono::milliseconds(1));
    }
  }
  bool ended() {
    int calls = 0;
    disks->at(0).thread().run([&] { calls = request.calls; });
    return calls > 0;
  }

  VmDefinition definition;
  TestImage image{kSize};
  EngineLog log;
  boost::asio::io_context context;
  ScriptedKeeper keeper;
  std::optional<VmDisks> disks;
  std::vector<std::string> events;
  std::unique_ptr<LunRecovery> recovery;
  std::unique_ptr<BlockClient<Disk>> client;
  AlignedBuffer buffer{4096};
  TestRequest request;
};

}  // namespace

TEST_CASE(
    "a LUN that has lost its paths keeps the VM paused until it is back, and no write is lost") {
  Fixture fixture;
  fixture.keeper.script = {State::kLost, State::kSilent, State::kLost, State::kWell};
  fixture.fail_writes(EIO, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return !fixture.recovery->trouble().empty(); });
  fixture.until([&] { return fixture.recovery->trouble().empty(); });
  CHECK(fixture.ended());
  CHECK(fixture.request.error == 0);
  CHECK(fixture.keeper.looks == 4);
  CHECK(fixture.events == std::vector<std::string>{"lun-lost", "lun-lost", "lun-lost", "lun-back"});
}

TEST_CASE("requests that wait in the kernel for a path have the LUN looked at, and pause the VM") {
  Fixture fixture("pause", 0, std::chrono::milliseconds(1));
  fixture.keeper.script = {State::kWell, State::kWell, State::kLost};
  fixture.log.keep_back(true);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return !fixture.recovery->trouble().empty(); });
  CHECK(fixture.keeper.looks == 3);
  CHECK(fixture.events == std::vector<std::string>{"lun-lost"});
  CHECK_FALSE(fixture.ended());
  fixture.log.keep_back(false);
  fixture.keeper.script = {State::kWell};
  fixture.until([&] { return fixture.recovery->trouble().empty(); });
  CHECK(fixture.ended());
  CHECK(fixture.request.error == 0);
  CHECK(fixture.log.take().size() == 1);
  CHECK(fixture.events == std::vector<std::string>{"lun-lost", "lun-back"});
}

TEST_CASE("nothing reaches a LUN in whose place another one is") {
  for (const char* policy : {"pause", "report"}) {
    Fixture fixture(policy);
    fixture.keeper.script = {State::kOther};
    fixture.keeper.tell(KeeperReport::About::kNews, State::kOther);
    fixture.until([&] { return !fixture.recovery->trouble().empty(); });
    CHECK(fixture.recovery->trouble() == fmt::format("disk data ({}): so it is", kWwn));
    fixture.client->submit(fixture.request);
    fixture.recovery->retry_now();
    fixture.until([&] { return fixture.keeper.looks >= 3; });
    CHECK_FALSE(fixture.ended());
    CHECK(fixture.log.take().empty());
    fixture.keeper.script = {State::kWell};
    fixture.until([&] { return fixture.recovery->trouble().empty(); });
    fixture.until([&] { return fixture.ended(); });
    CHECK(fixture.request.error == 0);
  }
}

TEST_CASE("news of another LUN count while requests are sent again") {
  Fixture fixture;
  fixture.keeper.script = {State::kWell, State::kOther};
  fixture.keeper.news_after_look = State::kOther;
  fixture.fail_writes(EIO, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.recovery->trouble().ends_with("so it is"); });
  fixture.until([&] { return fixture.keeper.looks >= 3; });
  CHECK(fixture.recovery->trouble().ends_with("so it is"));
  fixture.keeper.script = {State::kWell};
  fixture.until([&] { return fixture.recovery->trouble().empty(); });
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == 0);
}

TEST_CASE("a LUN that has come back as another device is gone on with there, and kept there") {
  Fixture fixture;
  const TestImage elsewhere(kSize);
  fixture.keeper.new_image = &elsewhere;
  fixture.keeper.script = {State::kLost, State::kNew};
  fixture.fail_writes(ENODEV, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.ended(); });
  fixture.until([&] { return fixture.keeper.watches == 2; });
  CHECK(fixture.request.error == 0);
  AlignedBuffer found(4096);
  REQUIRE(::pread(elsewhere.open().get(), found.data(), found.size(), 0) == 4096);
  CHECK(found == fixture.buffer);
  CHECK(fixture.disks->lun_of("data").device == elsewhere.path());
}

TEST_CASE("a disk that leaves keeps the VM paused no more, and its LUN can come again") {
  Fixture fixture;
  fixture.keeper.script = {State::kLost};
  fixture.fail_writes(EIO, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return !fixture.recovery->trouble().empty(); });
  const DiskDefinition again{.id = "data", .lun = kWwn, .on_error = "pause"};
  IoThread& spare = fixture.disks->at(0).thread();
  CHECK_THAT(fixture.disks->attach(again, source_on(fixture.image), spare).error().message,
             Contains("has a disk 'data' already"));
  const DiskDefinition twin{.id = "twin", .lun = kWwn, .on_error = "pause"};
  CHECK_THAT(fixture.disks->attach(twin, source_on(fixture.image), spare).error().message,
             Contains("already, as disk 'data'"));

  fixture.recovery->forget("data");
  CHECK(fixture.recovery->trouble().empty());
  std::atomic<bool> idle = false;
  fixture.disks->cut_off(0, [&] { idle = true; });
  fixture.until([&] { return idle.load(); });
  CHECK(fixture.ended());
  CHECK(fixture.request.error == EIO);
  CHECK(fixture.disks->in_flight(0) == 0);
  fixture.disks->close(0);
  for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    CHECK(std::filesystem::read_symlink(fd.path(), error) != fixture.image.path());
  }
  fixture.keeper.tell(KeeperReport::About::kNews, State::kOther);  // of a disk nobody has
  // Closed, it does not stand in its LUN's way.
  REQUIRE(fixture.disks->attach(twin, source_on(fixture.image), spare).ok());
  fixture.recovery->keep("twin");
  fixture.client.reset();
  fixture.disks->remove(0);
  fixture.until([&] { return fixture.keeper.watches == 2; });
  CHECK(fixture.recovery->trouble().empty());
  BlockClient<Disk> client(fixture.disks->at(0), fixture.disks->at(0).thread());
  CHECK(client.write(0, fixture.buffer) == 0);
}

TEST_CASE("nothing is sent to a device of which there are bad news while it is opened") {
  Fixture fixture;
  const TestImage elsewhere(kSize);
  fixture.keeper.new_image = &elsewhere;
  fixture.keeper.script = {State::kLost};
  fixture.fail_writes(ENODEV, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.recovery->trouble().ends_with("so it is"); });
  // The disk cannot take the device before the news are there.
  std::binary_semaphore gate(0);
  fixture.disks->at(0).thread().post([&gate] { gate.acquire(); });
  fixture.keeper.script = {State::kNew, State::kOther};
  fixture.keeper.news_after_look = State::kOther;
  fixture.until([&] { return fixture.events.back() == "lun-changed"; });
  gate.release();
  const int looks = fixture.keeper.looks;
  fixture.until([&] { return fixture.keeper.looks > looks + 1; });
  CHECK_FALSE(fixture.ended());
  AlignedBuffer found(4096);
  REQUIRE(::pread(elsewhere.open().get(), found.data(), found.size(), 0) == 4096);
  CHECK(found.all(0));
  fixture.keeper.script = {State::kWell};
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == 0);
}

TEST_CASE("what has come back smaller is not gone on with") {
  Fixture fixture;
  const TestImage smaller(kSize / 2);
  fixture.keeper.new_image = &smaller;
  fixture.keeper.script = {State::kNew};
  fixture.fail_writes(ENODEV, 1);
  fixture.client->submit(fixture.request);
  fixture.until(
      [&] { return fixture.recovery->trouble().find("has shrunk") != std::string::npos; });
  CHECK_FALSE(fixture.ended());
  // Still claimed, it could not be claimed at the next look.
  fixture.keeper.script = {State::kWell};
  fixture.until([&] { return fixture.ended(); });
  CHECK(open_count(smaller.path()) == 0);
}

TEST_CASE("requests that fail although the LUN is well wait for the administrator") {
  Fixture fixture;
  fixture.fail_writes(EIO, 4);
  fixture.client->submit(fixture.request);
  fixture.until(
      [&] { return fixture.recovery->trouble().find("tries once more") != std::string::npos; });
  CHECK(fixture.keeper.looks == 3);
  fixture.recovery->retry_now();
  fixture.until([&] { return fixture.recovery->trouble().empty(); });
  CHECK(fixture.ended());
  CHECK(fixture.request.error == 0);
}

TEST_CASE("a LUN's own answer is not tried again by itself") {
  Fixture fixture;
  fixture.fail_writes(ENOSPC, 1);
  fixture.client->submit(fixture.request);
  fixture.until(
      [&] { return fixture.recovery->trouble().ends_with("`plumb resume` tries again"); });
  CHECK(fixture.keeper.looks == 1);
  CHECK_FALSE(fixture.ended());
  // But it is when the LUN turns out to be in trouble.
  fixture.keeper.tell(KeeperReport::About::kNews, State::kLost);
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == 0);
}

TEST_CASE("after its path-timeout a LUN's errors reach the guest, and its return ends that") {
  Fixture fixture("pause", 1);
  fixture.keeper.script = {State::kLost};
  fixture.fail_writes(ENOLINK, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == ENOLINK);
  fixture.until([&] { return fixture.recovery->trouble().empty(); });
  fixture.keeper.script = {State::kWell};
  fixture.until([&] { return fixture.events.back() == "lun-back"; });
  fixture.fail_writes(ENOLINK, 1);
  fixture.request.calls = 0;
  fixture.request.set_parts({fixture.buffer.part(0, 4096)});
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == 0);
}

TEST_CASE("with the policy report the guest has its errors, and the LUN is found again") {
  Fixture fixture("report");
  const TestImage elsewhere(kSize);
  fixture.keeper.new_image = &elsewhere;
  fixture.keeper.script = {State::kLost, State::kLost, State::kNew};
  fixture.fail_writes(ENODEV, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.ended(); });
  CHECK(fixture.request.error == ENODEV);
  fixture.until([&] { return fixture.disks->lun_of("data").device == elsewhere.path(); });
  CHECK(fixture.recovery->trouble().empty());
}

TEST_CASE("a keeper that ends is told of, and what is lost stays so") {
  Fixture fixture;
  fixture.keeper.script = {State::kLost};
  fixture.fail_writes(EIO, 1);
  fixture.client->submit(fixture.request);
  fixture.until([&] { return fixture.keeper.looks > 0; });
  fixture.keeper.end();
  fixture.until([&] {
    return !fixture.events.empty() &&
           fixture.recovery->trouble().find("so it is") != std::string::npos;
  });
  CHECK_FALSE(fixture.ended());
  fixture.disks->at(0).thread().run(
      [&] { ENSURE(fixture.disks->at(0).withdraw(fixture.request)); });
}

}  // namespace plumb
