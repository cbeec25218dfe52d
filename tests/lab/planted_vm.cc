// plumb-vm-planted: plumb-vm with the bug that PLUMB_PLANTED_BUG names in its disks' engines. The
// power-cut rig puts it in the place of plumb-vm and must then find lost writes.
#include <fmt/core.h>

#include <cstdlib>
#include <memory>
#include <utility>

#include "cli/exit_code.h"
#include "cli/vm_main.h"
#include "tests/fakes/planted_engine.h"

int main(int argc, char** argv) {
  const char* name = std::getenv("PLUMB_PLANTED_BUG");
  const auto bug = plumb::planted_bug(name != nullptr ? name : "");
  if (!bug) {
    fmt::print(stderr, "plumb-vm-planted: PLUMB_PLANTED_BUG names no bug that it knows\n");
    return plumb::kExitUsage;
  }
  return plumb::vm_main(argc, argv, [bug = *bug](std::unique_ptr<plumb::IoEngine> below) {
    return std::make_unique<plumb::PlantedEngine>(std::move(below), bug);
  });
}
