#include "vmm/vm_state.h"

#include <catch2/catch.hpp>

using namespace plumb;

TEST_CASE("a VM is created, runs, pauses, resumes, stops") {
  VmStateMachine state;
  CHECK(state.now() == VmState::kCreated);
  for (const VmState next : {VmState::kRunning, VmState::kPaused, VmState::kRunning,
                             VmState::kPaused, VmState::kStopped}) {
    CHECK(state.move_to(next));
    CHECK(state.now() == next);
  }
}

TEST_CASE("a stopped VM stays stopped, and one that never ran can neither pause nor stop") {
  VmStateMachine created;
  CHECK_FALSE(created.move_to(VmState::kPaused));
  CHECK_FALSE(created.move_to(VmState::kStopped));
  CHECK(created.now() == VmState::kCreated);
  CHECK(created.move_to(VmState::kRunning));
  CHECK_FALSE(created.move_to(VmState::kRunning));
  CHECK(created.move_to(VmState::kStopped));
  for (const VmState next :
       {VmState::kCreated, VmState::kRunning, VmState::kPaused, VmState::kStopped}) {
    CHECK_FALSE(created.move_to(next));
  }
}
