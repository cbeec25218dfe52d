// Why a guest's run ended.
#pragma once

#include <cstdint>
#include <string>

namespace plumb {

enum class StopReason : uint8_t {
  kPowerOff,  // ACPI S5
  kReset,     // reset register 0xcf9, keyboard controller, ACPI reset
  kCrash,     // triple fault, or KVM could not go on; the message says which
  kKilled,    // the Vm was destroyed
};

struct Stopped {
  StopReason reason = StopReason::kKilled;
  std::string message;  // for kCrash: what happened, with the vCPU and its RIP
};

}  // namespace plumb
