#include "snapshot/arrays/command_array.h"

#include <sys/stat.h>

#include <fstream>

#include "tests/conformance/array_suite.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

// An array whose program is this text.
class ScriptArray {
 public:
  explicit ScriptArray(const std::string& script, unsigned timeout_ms = 60'000) {
    std::ofstream(path()) << "#!/bin/sh\n" << script;
    REQUIRE(::chmod(path().c_str(), 0700) == 0);
    array_ = make_command_array({.name = "script",
                                 .program = path(),
                                 .abilities = {.provisions = true},
                                 .timeout_ms = timeout_ms,
                                 .take_timeout_ms = timeout_ms,
                                 .settings = {{"key", "a \"value\""}}});
  }
  ArrayProvider* operator->() { return array_.get(); }
  std::string path() const { return folder_.path() + "/array"; }
  std::string told() const {
    std::ifstream file(folder_.path() + "/told");
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  TemporaryFolder folder_;
  std::unique_ptr<ArrayProvider> array_;
};

std::string health_of(const std::string& script, unsigned timeout_ms = 60'000) {
  ScriptArray array(script, timeout_ms);
  Result<> health = array->health();
  return health ? "" : health.error().message;
}

const conformance::Requests kRequests = {{{.id = "volume-1"}, "name-1"}};

}  // namespace

TEST_CASE("a program is told the array, its settings and what is asked of it") {
  ScriptArray array("cat >\"$(dirname \"$0\")/told\"; echo \"$@\" >>\"$(dirname \"$0\")/told\"");
  REQUIRE(array->remove("an id; $(false)").ok());
  const std::string want =
      R"json({"array":"script","id":"an id; $(false)","settings":{"key":"a \"value\""}})json";
  CHECK(array.told() == want + "remove\n");
}

TEST_CASE("what goes wrong with a program is told in a sentence") {
  CHECK_THAT(
      health_of("echo first >&2; echo 'the array is on fire' >&2; exit 1"),
      Catch::StartsWith("array script: ") && Catch::EndsWith("health: the array is on fire"));
  CHECK_THAT(health_of("exit 9"), Catch::EndsWith("exit status 9 and no reason"));
  CHECK_THAT(health_of("echo 'no such word' >&2; exit 2"),
             Catch::EndsWith("it cannot do that: no such word"));
  CHECK_THAT(health_of("kill -KILL $$"), Catch::Contains("was ended by signal 9"));
  CHECK_THAT(health_of("exec sleep 1000", 100), Catch::Contains("still ran after 0.1 s"));
  CHECK_THAT(health_of("exec yes"), Catch::Contains("wrote more than"));
  CHECK_THAT(health_of("echo all is well"), Catch::EndsWith("its answer is not JSON"));
  CHECK_THAT(health_of("echo '[]'"), Catch::EndsWith("its answer is no JSON object"));
  CHECK(health_of("true").empty());
  CHECK(health_of("echo '{}'").empty());
  const auto missing = make_command_array({.name = "script", .program = "/nowhere/array"});
  CHECK_THAT(missing->health().error().message, Catch::Contains("cannot be started"));
}

TEST_CASE("what is in use is an error of its own kind") {
  ScriptArray array("echo 'db1 has it open' >&2; exit 3");
  CHECK(array->unmap("x").error().kind == ErrorKind::kLocked);
}

TEST_CASE("an answer is read strictly") {
  using namespace command_answer;
  const char* volume_text = R"({"volume":{"id":"1","name":"db1","size_bytes":4096}})";
  CHECK(volume(volume_text).value().name == "db1");
  CHECK(found(volume_text).value()->size_bytes == 4096);
  CHECK_FALSE(found(R"({"volume":null})").value());
  CHECK(mapped(R"({"wwn":"","device":"/dev/sda"})").value().device == "/dev/sda");
  CHECK(capacity(R"({"total_bytes":2,"free_bytes":1})").value().total_bytes == 2);
  for (const char* text :
       {"", "{}", "null", R"({"volume":7})", R"({"volume":{"name":"x","size_bytes":1}})",
        R"({"volume":{"id":7,"name":"x","size_bytes":1}})",
        R"({"volume":{"id":"","name":"x","size_bytes":1}})",
        R"({"volume":{"id":"1\n","name":"x","size_bytes":1}})",
        R"({"volume":{"id":"1","name":"x","size_bytes":-1}})",
        R"({"volume":{"id":"1","name":"x","size_bytes":1.5}})",
        R"({"volume":{"id":"1","name":"x","size_bytes":99999999999999999999}})",
        R"({"volume":{"id":"1","name":"x","size_bytes":1,"whole":"no"}})"}) {
    CAPTURE(text);
    CHECK_FALSE(volume(text).ok());
    CHECK_FALSE(found(text).ok());
  }
  CHECK_FALSE(snapshots(R"({"snapshots":{}})").ok());
  CHECK_FALSE(snapshots(R"({"snapshots":[7]})").ok());
  CHECK_FALSE(mapped(R"({"wwn":"","device":""})").ok());
  CHECK_FALSE(capacity(R"({"total_bytes":1,"free_bytes":2})").ok());
}

TEST_CASE("a program that finishes other snapshots than asked for is found out, and told to drop") {
  ScriptArray array(R"(echo "$1" >>"$(dirname "$0")/told"
    [ "$1" != finish ] ||
      echo '{"snapshots":[{"id":"1","name":"name-2","volume_id":"volume-1","size_bytes":1}]}')");
  {
    auto prepared = array->prepare(kRequests);
    REQUIRE(prepared.ok());
    REQUIRE(prepared.value()->take().ok());
    Result<std::vector<ArraySnapshot>> made = prepared.value()->finish();
    REQUIRE_FALSE(made.ok());
    CHECK_THAT(made.error().message, Catch::Contains("not those that were asked for"));
  }
  CHECK(array.told() == "prepare\ntake\nfinish\ndrop\n");
}

TEST_CASE("what failed to be prepared is not dropped: its names may be another's") {
  ScriptArray array("echo \"$1\" >>\"$(dirname \"$0\")/told\"; exit 1");
  CHECK_FALSE(array->prepare(kRequests).ok());
  CHECK(array.told() == "prepare\n");
}

TEST_CASE("what a program lists besides is left out") {
  ScriptArray array(R"(echo '{"volumes":[{"id":"1","name":"mine-1","size_bytes":1},
    {"id":"2","name":"other","size_bytes":1}]}')");
  CHECK(conformance::volume_names(*array.operator->(), "mine-") == conformance::Names{"mine-1"});
}

}  // namespace plumb
