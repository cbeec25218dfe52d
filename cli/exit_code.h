// The exit codes of every command; docs/exit-codes.md explains them to users.
#pragma once

#include "base/result.h"

namespace plumb {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitWeaker = 3,      // finished, but weaker than asked
  kExitGuestReset = 4,  // run: the guest rebooted and on-reboot is exit
  kExitGuestCrash = 5,  // run: triple fault, or KVM could not go on
  kExitNotFound = 10,   // no such VM
  kExitLocked = 11,     // held by someone else, who is named
  kExitSignal = 128,    // + the signal's number
};

inline ExitCode exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return kExitUsage;
    case ErrorKind::kNotFound:
      return kExitNotFound;
    case ErrorKind::kLocked:
      return kExitLocked;
    case ErrorKind::kFailed:
      break;
  }
  return kExitFailed;
}

}  // namespace plumb
