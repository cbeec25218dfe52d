// Runs another program, without a shell, and waits for its end: for a bounded time, with bounded
// output.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace plumb {

struct ProgramCall {
  std::string program;  // absolute path
  std::vector<std::string> arguments;
  std::string input;                     // on its standard input
  std::vector<std::string> environment;  // "NAME=VALUE", over what this process has
  unsigned timeout_ms = 0;               // then it and its children are ended
  size_t output_limit_bytes = 1U << 20U;
};

struct ProgramAnswer {
  int exit_status = 0;
  std::string output;
  std::string errors;  // the end of its standard error, a few KiB
};

// Errors: it cannot be started, was ended by a signal, took too long, or wrote more than the limit.
// Any exit status is an answer. Blocks; any thread.
Result<ProgramAnswer> run_program(const ProgramCall& call);

// The last line of an answer's errors that says something, fit for a message: no control
// characters, not long. "" when there is none.
std::string last_words(const std::string& errors);

}  // namespace plumb
