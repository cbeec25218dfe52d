// The suite of arrays (tests/conformance/array_suite.h) over an array of a plumb.toml, for what
// only the lab has:
//   array-conformance [--sees-use] PLUMB.TOML ARRAY DISK DISK DISK
// A disk is WWN=DEVICE, a DEVICE or an image; its content is overwritten.
//   array-conformance --health PLUMB.TOML ARRAY
// says what is wrong with it.
//   array-conformance --die PLUMB.TOML ARRAY DISK DISK DISK
// is killed while it holds the volumes of a dm-thin array.
#define CATCH_CONFIG_RUNNER
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "snapshot/arrays/array_config.h"
#include "tests/conformance/array_suite.h"

namespace plumb {
namespace {

std::vector<std::string> arguments;
bool sees_use = false;

ArrayDefinition definition() {
  const std::string text = conformance::good(read_file(arguments.at(0)));
  for (const auto& one : conformance::good(read_arrays(text, arguments.at(0), "/run"))) {
    if (array_name(one) == arguments.at(1)) return one;
  }
  FAIL("no array " + arguments.at(1));
  return {};
}

class ConfiguredFixture final : public conformance::ArrayFixture {
 public:
  ConfiguredFixture() {
    for (size_t i = 2; i < arguments.size(); ++i) add_disk(arguments[i]);
    REQUIRE(disks_.size() == 3);
  }

  std::unique_ptr<ArrayProvider> open() override {
    return conformance::good(open_array(definition_));
  }
  const std::vector<conformance::TestDisk>& disks() override { return disks_; }
  bool sees_use() const override { return plumb::sees_use; }

 private:
  void add_disk(const std::string& text) {
    const size_t equals = text.find('=');
    const std::string path = equals == std::string::npos ? text : text.substr(equals + 1);
    const UniqueFd fd = conformance::good(open_file("disk", path, O_RDONLY));
    conformance::TestDisk disk{.medium = {}, .path = path};
    disk.medium.size_bytes = static_cast<uint64_t>(::lseek(fd.get(), 0, SEEK_END));
    if (path.starts_with("/dev/")) {
      disk.medium.device = path;
      disk.medium.wwn = equals == std::string::npos ? "" : text.substr(0, equals);
    } else {
      disk.medium.image = path;
    }
    disks_.push_back(disk);
  }

  const ArrayDefinition definition_ = definition();
  std::vector<conformance::TestDisk> disks_;
};

}  // namespace

TEST_CASE("the array is one") {
  ConfiguredFixture fixture;
  run_array_suite(fixture);
}

// Dies in the middle of a snapshot: the volumes are suspended.
class DyingDeviceMapper final : public KernelDeviceMapper {
 public:
  Result<> message(const std::string& name, const std::string& text) override {
    if (text.starts_with("create_snap")) ::raise(SIGKILL);
    return KernelDeviceMapper::message(name, text);
  }
};

TEST_CASE("the array is well", "[.health]") {
  conformance::good(conformance::good(open_array(definition()))->health());
}

TEST_CASE("the process dies while it holds the volumes", "[.die]") {
  ConfiguredFixture fixture;
  const auto array = make_dm_thin_array(std::get<DmThinConfig>(definition()),
                                        std::make_unique<DyingDeviceMapper>());
  conformance::Requests requests;
  for (const conformance::TestDisk& disk : fixture.disks()) {
    requests.push_back(
        {conformance::volume_of(*array, disk), "died-" + std::to_string(requests.size())});
  }
  conformance::snapshots_of(*array, requests);
  FAIL("it lives");
}

}  // namespace plumb

int main(int count, char** words) {
  plumb::arguments.assign(words + 1, words + count);
  plumb::sees_use = std::erase(plumb::arguments, "--sees-use") > 0;
  const char* tests = "~[.]";
  for (const char* word : {"health", "die"}) {
    if (std::erase(plumb::arguments, std::string("--") + word) == 0) continue;
    tests = word == std::string("health") ? "[.health]" : "[.die]";
  }
  if (plumb::arguments.size() != (tests == std::string("[.health]") ? 2U : 5U)) {
    std::fputs("usage: array-conformance [--sees-use] PLUMB.TOML ARRAY DISK DISK DISK\n", stderr);
    return 2;
  }
  const char* const rule[] = {words[0], tests};
  return Catch::Session().run(2, rule);
}
