// The clients that people use, at exports that only a program of ours can make: with dirty bitmaps.
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/program.h"
#include "tests/fakes/nbd_served.h"

namespace plumb::nbd {
namespace {

constexpr uint64_t kGrain = 65536;

bool missing(const char* program) {
  if (::access(program, X_OK) == 0) return false;
  WARN("SKIPPED: " << program << " is not installed");
  return true;
}

// What a client prints; white space is left out.
std::string printed(const char* program, std::vector<std::string> arguments) {
  const ProgramAnswer answer =
      run_program({.program = program, .arguments = std::move(arguments), .timeout_ms = 60'000})
          .value();
  CAPTURE(answer.errors);
  REQUIRE(answer.exit_status == 0);
  std::string text = answer.output;
  std::erase_if(text, [](unsigned char c) { return c <= ' '; });
  return text;
}

struct Served {
  // The second grain has changed, and the last two.
  BitmapExtents changes{{0b1100'0000'0000'0010}, kGrain};
  NbdServed::Config config() {
    NbdServed::Config config;
    config.info = {.size_bytes = 16 * kGrain, .read_only = true};
    config.served.bitmaps = {{.name = "backup-data", .source = &changes}};
    return config;
  }
  NbdServed served{config()};
  std::string uri = "nbd+unix:///disk?socket=" + served.path;
};

}  // namespace

TEST_CASE("nbdinfo shows what a dirty bitmap says has changed") {
  if (missing("/usr/bin/nbdinfo")) return;
  Served one;
  const std::string map =
      printed("/usr/bin/nbdinfo", {"--map=qemu:dirty-bitmap:backup-data", "--json", one.uri});
  CHECK(map == R"([{"offset":0,"length":65536,"type":0,"description":"clean"},)"
               R"({"offset":65536,"length":65536,"type":1,"description":"dirty"},)"
               R"({"offset":131072,"length":786432,"type":0,"description":"clean"},)"
               R"({"offset":917504,"length":131072,"type":1,"description":"dirty"}])");
  const std::string listed = printed("/usr/bin/nbdinfo", {"--list", one.uri});
  CHECK_THAT(listed, Catch::Contains("base:allocation"));
  CHECK_THAT(listed, Catch::Contains("qemu:dirty-bitmap:backup-data"));
}

TEST_CASE("qemu-img maps a dirty bitmap") {
  if (missing("/usr/bin/qemu-img")) return;
  Served one;
  const std::string map =
      printed("/usr/bin/qemu-img",
              {"map", "--output=json", "--image-opts",
               "driver=nbd,export=disk,server.type=unix,server.path=" + one.served.path +
                   ",x-dirty-bitmap=qemu:dirty-bitmap:backup-data"});
  // QEMU shows what is dirty as what has no data.
  CHECK_THAT(map, Catch::Contains(R"("start":65536,"length":65536,)"));
  CHECK_THAT(map, Catch::Contains(R"("start":917504,"length":131072,)"));
}

}  // namespace plumb::nbd
