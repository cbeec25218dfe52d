// docs/examples/array-command is an array like those that are built in.
#include <cstdio>

#include "snapshot/arrays/command_array.h"
#include "tests/fakes/file_disks.h"
#include "tests/fakes/loop_file_system.h"

namespace plumb {
namespace {

class ExampleFixture final : public conformance::ArrayFixture {
 public:
  explicit ExampleFixture(const std::string& folder)
      : folder_(folder), disks_(make_file_disks(folder)) {}
  std::unique_ptr<ArrayProvider> open() override {
    return make_command_array({.name = "example",
                               .program = PLUMB_EXAMPLE_ARRAY,
                               .abilities = {.provisions = true},
                               .settings = {{"folder", folder_}}});
  }
  const std::vector<conformance::TestDisk>& disks() override { return disks_; }

 private:
  const std::string folder_;
  const std::vector<conformance::TestDisk> disks_;
};

}  // namespace

TEST_CASE("the example of an array by a program is an array") {
  const LoopFileSystem files("mkfs.xfs -q");
  if (!files.missing().empty()) {
    std::puts(("SKIPPED: " + files.missing()).c_str());
    return;
  }
  ExampleFixture fixture(files.path());
  run_array_suite(fixture);
}

}  // namespace plumb
