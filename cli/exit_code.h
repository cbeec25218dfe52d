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
  kExitArray = 14,      // the storage array did not do what it was asked
  kExitFreeze = 15,     // a guest was not frozen or thawed; its state is named
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
    case ErrorKind::kArray:
      return kExitArray;
    case ErrorKind::kFreeze:
      return kExitFreeze;
    case ErrorKind::kFailed:
      break;
  }
  return kExitFailed;
}

// The other way, of another of our programs.
inline ErrorKind kind_of_exit(int status) {
  switch (status) {
    case kExitUsage:
      return ErrorKind::kUsage;
    case kExitNotFound:
      return ErrorKind::kNotFound;
    case kExitLocked:
      return ErrorKind::kLocked;
    case kExitArray:
      return ErrorKind::kArray;
    case kExitFreeze:
      return ErrorKind::kFreeze;
    default:
      return ErrorKind::kFailed;
  }
}

}  // namespace plumb
