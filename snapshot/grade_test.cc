#include "snapshot/grade.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/file.h"
#include "base/program.h"
#include "snapshot/hook_report.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

// A guest that froze and thawed as it should.
StandStill good() {
  StandStill still;
  still.facts = GuestFacts{.agent = "7.2", .os = {}, .file_systems = {}, .hooks = HookReport{}};
  still.frozen = 2;
  still.thawed = Thawed{.count = 2, .complaint = ""};
  return still;
}

StandStill with_hooks(HookReport after) {
  StandStill still = good();
  still.hooks = std::move(after);
  return still;
}

const HookReport kGoodHooks{.count = 1, .thawed = true, .good = {"postgresql"}, .failed = {}};

}  // namespace

TEST_CASE("a frozen and thawed guest is of grade fs, with hooks of grade application") {
  CHECK(grade_of(Grade::kFileSystem, good()).grade == Grade::kFileSystem);
  CHECK(grade_of(Grade::kFileSystem, good()).reason.empty());
  CHECK(grade_of(Grade::kApplication, with_hooks(kGoodHooks)).grade == Grade::kApplication);
  CHECK(grade_of(Grade::kApplication, with_hooks(kGoodHooks)).reason.empty());
  StandStill windows = good();
  windows.facts->os.id = "mswindows";
  CHECK(grade_of(Grade::kApplication, windows).grade == Grade::kApplication);
}

TEST_CASE("what was not asked for is not claimed, and needs no reason") {
  CHECK(grade_of(Grade::kCrash, good()).grade == Grade::kCrash);
  CHECK(grade_of(Grade::kCrash, {}).reason.empty());
}

TEST_CASE("a grade is never better than what was seen") {
  struct Case {
    const char* what;
    Grade grade;
    const char* reason;
    std::function<void(StandStill&)> spoil;
  };
  const Case cases[] = {
      {"trouble", Grade::kCrash, "no agent", [](StandStill& s) { s.trouble = "no agent"; }},
      {"never frozen", Grade::kCrash, "not frozen", [](StandStill& s) { s.frozen.reset(); }},
      {"thaw unknown", Grade::kCrash, "not frozen", [](StandStill& s) { s.thawed.reset(); }},
      {"no file system", Grade::kCrash, "no file system", [](StandStill& s) { s.frozen = 0; }},
      {"thawed early", Grade::kCrash, "1 of 2 file systems",
       [](StandStill& s) { s.thawed->count = 1; }},
      {"VSS too late", Grade::kCrash, "10 seconds",
       [](StandStill& s) { s.thawed->complaint = "limited up to 10 seconds"; }},
      {"no hooks", Grade::kFileSystem, "no hooks", [](StandStill& s) { s.hooks.reset(); }},
      {"no hook installed", Grade::kFileSystem, "no hooks of applications",
       [](StandStill& s) { s.hooks->good.clear(); }},
      {"a hook failed", Grade::kFileSystem, "hook mariadb failed",
       [](StandStill& s) { s.hooks->failed = {"mariadb"}; }},
      {"an old report", Grade::kFileSystem, "ran 0 times",
       [](StandStill& s) { s.hooks->count = 0; }},
      {"two freezes", Grade::kFileSystem, "ran 2 times", [](StandStill& s) { s.hooks->count = 2; }},
      {"not thawed", Grade::kFileSystem, "have not ended",
       [](StandStill& s) { s.hooks->thawed = false; }},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    StandStill still = with_hooks(kGoodHooks);
    one.spoil(still);
    const GradeFound found = grade_of(Grade::kApplication, still);
    CHECK(found.grade == one.grade);
    CHECK(found.reason.find(one.reason) != std::string::npos);
  }
}

TEST_CASE("grades have names") {
  for (const Grade grade : {Grade::kCrash, Grade::kFileSystem, Grade::kApplication}) {
    CHECK(parse_grade(name_of(grade)).value() == grade);
  }
  CHECK_FALSE(parse_grade("").ok());
  CHECK_FALSE(parse_grade("FS").ok());
}

TEST_CASE("a report of hooks is read as docs/formats/hook-report.md has it") {
  const HookReport report = parse_hook_report(R"({"version":1,"count":3,"phase":"thaw","hooks":[
        {"name":"10-postgresql","status":"ok"},{"name":"mariadb","status":"failed"},
        {"name":"slow","status":"timeout"}]})")
                                .value();
  CHECK(report.count == 3);
  CHECK(report.thawed);
  CHECK(report.good == std::vector<std::string>{"10-postgresql"});
  CHECK(report.failed == std::vector<std::string>{"mariadb", "slow"});
}

TEST_CASE("the report of the hook that docs/hooks has is understood") {
  const TemporaryFolder folder;
  const std::string hook = folder.path() + "/fsfreeze-hook";
  std::filesystem::copy_file(PLUMB_FSFREEZE_HOOK, hook);
  std::filesystem::create_directory(hook + ".d");
  std::filesystem::create_symlink("/bin/true", hook + ".d/10-database");
  for (const char* phase : {"freeze", "thaw"}) {
    CHECK(run_program({.program = hook,
                       .arguments = {phase},
                       .input = "",
                       .environment = {"PLUMB_HOOK_RUN_DIR=" + folder.path()},
                       .timeout_ms = 60'000})
              .value()
              .exit_status == 0);
    const std::string text = read_file(folder.path() + "/hooks.json", 4096).value();
    INFO(text);
    const HookReport report = parse_hook_report(text).value();
    CHECK(report.count == 1);
    CHECK(report.thawed == (phase == std::string_view("thaw")));
    CHECK(report.good == std::vector<std::string>{"10-database"});
    CHECK(report.failed.empty());
  }
}

TEST_CASE("what is no report of hooks is refused") {
  for (const char* text :
       {"", "{}", "[]", "7", R"({"version":2,"count":1,"phase":"thaw","hooks":[]})",
        R"({"version":1,"count":-1,"phase":"thaw","hooks":[]})",
        R"({"version":1,"count":1,"phase":"melt","hooks":[]})",
        R"({"version":1,"count":1,"phase":"thaw"})",
        R"({"version":1,"count":1,"phase":"thaw","hooks":[1]})",
        R"({"version":1,"count":1,"phase":"thaw","hooks":[{"name":1,"status":"ok"}]})",
        R"({"version":1,"count":1,"phase":"thaw","hooks":[{"name":"a","status":0}]})",
        R"({"version":1,"count":1,"phase":"thaw","hooks":[{"name":"a","status":"fine"}]})"}) {
    INFO(text);
    CHECK_FALSE(parse_hook_report(text).ok());
  }
}

}  // namespace plumb
