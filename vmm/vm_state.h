// The states of a Vm, and which may follow which.
#pragma once

#include <atomic>
#include <cstdint>

namespace plumb {

enum class VmState : uint8_t {
  kCreated,  // devices and kernel are given to it
  kRunning,
  kPaused,   // no vCPU is in the guest
  kStopped,  // the guest's run has ended
};

struct VmTransition {
  VmState from;
  VmState to;
};

inline constexpr VmTransition kVmTransitions[] = {
    {VmState::kCreated, VmState::kRunning}, {VmState::kRunning, VmState::kPaused},
    {VmState::kPaused, VmState::kRunning},  {VmState::kRunning, VmState::kStopped},
    {VmState::kPaused, VmState::kStopped},
};

constexpr bool vm_transition_is_legal(VmState from, VmState to) {
  for (const VmTransition& transition : kVmTransitions) {
    if (transition.from == from && transition.to == to) return true;
  }
  return false;
}

// Any thread: the guest may stop while the control thread pauses it.
class VmStateMachine {
 public:
  VmState now() const { return state_.load(); }
  // False, and nothing changes, when `to` may not follow the present state.
  bool move_to(VmState to) {
    VmState from = state_.load();
    do {
      if (!vm_transition_is_legal(from, to)) return false;
    } while (!state_.compare_exchange_weak(from, to));
    return true;
  }

 private:
  std::atomic<VmState> state_ = VmState::kCreated;
};

}  // namespace plumb
