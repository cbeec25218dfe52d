#include "snapshot/arrays/ontap.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "snapshot/arrays/fake_ontap.h"
#include "snapshot/arrays/ontap_answer.h"
#include "tests/conformance/array_suite.h"

namespace plumb {
namespace {

constexpr uint64_t kLunBytes = 2U << 20U;
using conformance::good;
using conformance::Names;
using conformance::Requests;

class OntapFixture final : public conformance::ArrayFixture {
 public:
  OntapFixture() {
    for (const char* path : {"/vol/vol1/db1-data", "/vol/vol1/qtree/db1-log", "/vol/vol2/db2"}) {
      const std::string wwn = fake_.add_lun(path, kLunBytes);
      const std::string device = fake_.device_of(wwn);
      disks_.push_back({{.wwn = wwn, .device = device, .size_bytes = kLunBytes}, device});
    }
    fake_.add_group("of-others", {"vol1", "other"});
    fake_.add_group("all", {"vol1", "vol2"});
  }
  std::unique_ptr<ArrayProvider> open() override {
    return good(open_ontap_array(fake_.config(), fake_.host()));
  }
  const std::vector<conformance::TestDisk>& disks() override { return disks_; }
  FakeOntap& fake() { return fake_; }

  // Requests for snapshots of the first disks, named "s0", "s1", ….
  Requests requests(ArrayProvider& array, const std::vector<size_t>& which) {
    Requests all;
    for (const size_t i : which) {
      all.push_back({conformance::volume_of(array, disks_[i]), "s" + std::to_string(i)});
    }
    return all;
  }

 private:
  FakeOntap fake_;
  std::vector<conformance::TestDisk> disks_;
};

// Which of the requests of a whole life of snapshots fails, and how, is tried one by one: nothing
// may stay that is not listed, and nothing of it is the administrator's.
void live_through(OntapFixture& fixture, const std::vector<size_t>& which, HttpsFault fault) {
  const std::vector<std::string> before = fixture.fake().lun_paths();
  for (size_t nth = 0;; ++nth) {
    CAPTURE(nth, static_cast<int>(fault));
    const auto array = fixture.open();
    const Requests requests = fixture.requests(*array, which);
    size_t seen = 0;
    std::string hit;
    fixture.fake().server().set_fault([&](const ServedRequest& request) {
      if (seen++ != nth) return HttpsFault::kNone;
      hit = request.method + " " + request.path;
      return fault;
    });
    auto prepared = array->prepare(requests);
    Result<> taken = prepared ? prepared.value()->take() : Result<>(prepared.error());
    bool finished = false;
    if (taken) finished = prepared.value()->finish().ok();
    if (prepared) std::move(prepared).value().reset();
    fixture.fake().server().set_fault(nullptr);
    CAPTURE(hit);
    for (const ArraySnapshot& left : good(array->list_snapshots(""))) {
      CHECK((!finished || left.whole));
      good(array->remove(left.id));
    }
    CHECK(fixture.fake().lun_paths() == before);
    CHECK(fixture.fake().snapshot_names() == Names{});
    if (hit.empty()) {
      CHECK(finished);
      return;
    }
  }
}

}  // namespace

TEST_CASE("an SVM of ONTAP does what an array must") {
  OntapFixture fixture;
  FakeOntap::Mood mood;
  mood.jobs = GENERATE(false, true);
  fixture.fake().set_mood(mood);
  conformance::run_array_suite(fixture);
  CHECK(fixture.fake().strays() == std::vector<std::string>{});
  CHECK(fixture.fake().comment_of("/vol/vol1/db1-data") == "the administrator's");
  CHECK(fixture.fake().snapshot_names() == Names{});
}

TEST_CASE("one request takes one LUN, or one volume, and a group is started and committed") {
  OntapFixture fixture;
  const auto array = fixture.open();
  const auto requests_of_take = [&](const std::vector<size_t>& which) {
    const auto prepared = good(array->prepare(fixture.requests(*array, which)));
    const size_t before = fixture.fake().server().log().size();
    good(prepared->take());
    std::vector<std::string> log = fixture.fake().server().log();
    log.erase(log.begin(), log.begin() + static_cast<std::ptrdiff_t>(before));
    for (std::string& line : log) line = line.substr(0, line.find("/5a24"));
    return log;
  };
  CHECK(requests_of_take({0}) == Names{"PATCH /api/storage/luns"});
  CHECK(requests_of_take({0, 1}) == Names{"POST /api/storage/volumes"});
  const char* groups = "/api/application/consistency-groups";
  CHECK(requests_of_take({0, 2}) ==
        Names{std::string("POST ") + groups, std::string("PATCH ") + groups});
  // All over the connection that was made before.
  CHECK(fixture.fake().server().connections() == 1);
}

TEST_CASE("LUNs in volumes that no consistency group has together are refused with what to do") {
  FakeOntap fake;
  const std::string first = fake.add_lun("/vol/vol1/a", kLunBytes);
  const std::string second = fake.add_lun("/vol/vol2/b", kLunBytes);
  fake.add_group("of-others", {"vol1", "other"});
  const auto array = good(open_ontap_array(fake.config(), fake.host()));
  const Requests requests = {{*good(array->find({.wwn = first})), "s0"},
                             {*good(array->find({.wwn = second})), "s1"}};
  CHECK_THAT(array->prepare(requests).error().message,
             Catch::Contains("no consistency group of the SVM svm1 has all of them; make one"));
  CHECK(fake.lun_paths().size() == 2);
}

TEST_CASE("a LUN of a volume that is not this array's is not found") {
  FakeOntap fake;
  const std::string wwn = fake.add_lun("/vol/other/a", kLunBytes);
  const auto array = good(open_ontap_array(fake.config(), fake.host()));
  CHECK_FALSE(good(array->find({.wwn = wwn})).has_value());
}

TEST_CASE("whichever request fails, nothing stays that is not listed") {
  const auto fault = GENERATE(HttpsFault::kDropBefore, HttpsFault::kDropAfter,
                              HttpsFault::kServerError, HttpsFault::kNotJson);
  const auto which =
      GENERATE(std::vector<size_t>{0}, std::vector<size_t>{0, 1}, std::vector<size_t>{0, 2});
  OntapFixture fixture;
  live_through(fixture, which, fault);
  CHECK(fixture.fake().strays() == std::vector<std::string>{});
}

TEST_CASE("what goes wrong with ONTAP is told in a sentence, without its password") {
  OntapFixture fixture;
  OntapConfig config = fixture.fake().config();
  config.timeout_ms = 2'000;
  config.take_timeout_ms = 1'000;
  const auto array = good(open_ontap_array(config, fixture.fake().host()));
  const Requests requests = fixture.requests(*array, {0, 1});
  const auto reason = [&] {
    auto prepared = array->prepare(requests);
    Result<> taken = prepared ? prepared.value()->take() : Result<>(prepared.error());
    REQUIRE_FALSE(taken.ok());
    const std::string text = taken.error().message;
    CHECK_THAT(text, Catch::StartsWith("array netapp (ONTAP 127.0.0.1): "));
    CHECK_THAT(text, !Catch::Contains(FakeOntap::kPassword) && !Catch::Contains("cGx1"));
    return text;
  };
  FakeOntap::Mood mood;
  SECTION("full") {
    mood.full = true;
    fixture.fake().set_mood(mood);
    CHECK_THAT(reason(), Catch::Contains("No space left on the aggregate (HTTP 500)"));
    CHECK_THAT(array->health().error().message, Catch::Contains("the volume vol1 is full"));
  }
  SECTION("another password") {
    mood.password = "other";
    fixture.fake().set_mood(mood);
    CHECK_THAT(reason(), Catch::Contains("the user plumb may not do that"));
  }
  SECTION("a job that fails") {
    mood.jobs = mood.jobs_fail = true;
    fixture.fake().set_mood(mood);
    CHECK_THAT(reason(), Catch::Contains("its job failed: the job met a bad disk"));
  }
  SECTION("a job that never ends") {
    mood.jobs = mood.jobs_hang = true;
    fixture.fake().set_mood(mood);
    CHECK_THAT(reason(), Catch::Contains("has not ended in time"));
  }
  SECTION("an array that says nothing while the guests are frozen") {
    auto prepared = good(array->prepare(requests));
    fixture.fake().server().set_fault([](const ServedRequest& request) {
      return request.path.ends_with("/snapshots") && request.method == "POST" ? HttpsFault::kSilent
                                                                              : HttpsFault::kNone;
    });
    CHECK_THAT(prepared->take().error().message, Catch::Contains("it took too long"));
    prepared.reset();
    fixture.fake().server().set_fault(nullptr);
    CHECK(conformance::snapshot_names(*array, "") == Names{});
    CHECK(fixture.fake().snapshot_names() == Names{});
  }
  SECTION("an answer without an end, or from elsewhere") {
    const auto fault = GENERATE(HttpsFault::kGiant, HttpsFault::kRedirect);
    fixture.fake().server().set_fault([fault](const ServedRequest&) { return fault; });
    CHECK_THAT(reason(), Catch::Contains("too long") || Catch::Contains("sends elsewhere"));
  }
}

TEST_CASE("what only looks like plumb's is not removed") {
  FakeOntap fake;
  const std::string wwn = fake.add_lun("/vol/vol1/plumb.netapp.mine", kLunBytes);
  const auto array = good(open_ontap_array(fake.config(), fake.host()));
  const ArrayVolume found = *good(array->find({.wwn = wwn}));
  CHECK_THAT(array->remove(found.id).error().message, Catch::Contains("was not made here"));
  CHECK(conformance::volume_names(*array, "") == Names{});
  CHECK_FALSE(array->remove("../../cluster").ok());
  CHECK_FALSE(array->remove("").ok());
}

TEST_CASE("a password file that others may read is refused before anything is asked") {
  const FakeOntap fake;
  OntapConfig config = fake.config();
  config.password_file = "/etc/passwd";
  CHECK_THAT(open_ontap_array(config, fake.host()).error().message,
             Catch::StartsWith("array netapp: ") && Catch::Contains("chmod 0600"));
}

TEST_CASE("the identity that a LUN shows is made of its serial number") {
  CHECK(ontap_wwn("wf0Iq+N4uck3") ==
        "naa.600a09807766304971"
        "2b4e3475636b33");
  CHECK(ontap_wwn("short").empty());
  CHECK(ontap_path_in_snapshot("/vol/v/q/lun", "s") == "/vol/v/.snapshot/s/q/lun");
}

TEST_CASE("a mark says what a LUN is, and nothing else is a mark") {
  const std::string uuid = "5a24ae5b-28af-47fb-b129-5adf6cfba0a6";
  const OntapMark mark{.array = "a",
                       .snapshot = true,
                       .of = uuid,
                       .partial = true,
                       .take = "plumb.a.s",
                       .group = uuid};
  const auto read = OntapMark::parse(mark.text());
  REQUIRE(read.has_value());
  CHECK(read->text() == mark.text());
  CHECK(OntapMark::parse("plumb volume array=a")->snapshot == false);
  const std::string longest =
      OntapMark{.array = std::string(32, 'a'),
                .snapshot = true,
                .of = uuid,
                .partial = true,
                .take = "plumb." + std::string(32, 'a') + "." + std::string(64, 'a'),
                .group = uuid}
          .text();
  CHECK(longest.size() <= 254);
  for (const std::string& text :
       {std::string(), std::string("plumb"), std::string("plumb array=a"),
        std::string("plumb take array=a"), std::string("plumb snapshot array=a"),
        std::string("plumb snapshot array=a of=x"), std::string("plumb volume"),
        std::string("x plumb volume array=a"), std::string("plumber volume array=a"),
        "plumb snapshot array=a of=" + uuid + " take=daily",
        "plumb snapshot array=a of=" + uuid + " take=plumb.a/../x",
        "plumb snapshot array=a of=" + uuid + " group=x"}) {
    CAPTURE(text);
    CHECK_FALSE(OntapMark::parse(text).has_value());
  }
}

TEST_CASE("an answer of ONTAP is read strictly") {
  using namespace ontap_answer;
  const std::string uuid = "5a24ae5b-28af-47fb-b129-5adf6cfba0a6";
  const std::string good_lun = R"({"uuid":")" + uuid + R"(","name":"/vol/v/l","space":{"size":4096},
    "location":{"volume":{"uuid":")" +
                               uuid + R"(","name":"v"}}})";
  CHECK(lun(good_lun).value().size_bytes == 4096);
  CHECK(luns(R"({"records":[)" + good_lun + "]}").value().records.size() == 1);
  const auto with = [&good_lun](const std::string& from, const std::string& to) {
    std::string text = good_lun;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("7"), with(uuid, "../x"),
        with("4096", "-1"), with("4096", "1.5"), with("4096", "\"4096\""),
        with("4096", "99999999999999999999"), with("/vol/v/l", "/vol/w/l"),
        with("/vol/v/l", "/vol/v/"), with("/vol/v/l", "/vol/v/a\\n"), with("/vol/v/l", ""),
        with("\"name\":\"v\"", "\"name\":7")}) {
    CAPTURE(text);
    CHECK_FALSE(lun(text).ok());
    if (!text.empty()) CHECK_FALSE(luns(R"({"records":[)" + text + "]}").ok());
  }
  CHECK_FALSE(luns("{}").ok());
  CHECK_FALSE(luns(R"({"records":{}})").ok());
  CHECK_FALSE(luns(R"({"records":[],"_links":{"next":{"href":"https://elsewhere/"}}})").ok());
  CHECK(job(R"({"state":"success"})").value().state == OntapJob::State::kDone);
  CHECK(job(R"({"state":"queued"})").value().state == OntapJob::State::kRunning);
  CHECK_FALSE(job(R"({"state":7})").ok());
  CHECK(job_of("").value().empty());
  CHECK_FALSE(job_of(R"({"job":{"uuid":"x"}})").ok());
  CHECK(reason(R"({"error":{"message":"a\nb"}})") == "a\\x0ab");
  CHECK(reason("<html>").empty());
}

}  // namespace plumb
