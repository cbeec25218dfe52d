#include "base/program.h"

#include <catch2/catch.hpp>
#include <csignal>

namespace plumb {
namespace {

// Long enough for anything that is to end.
constexpr unsigned kPatienceMs = 60'000;

ProgramCall shell(const std::string& script) {
  return {.program = "/bin/sh", .arguments = {"-c", script}, .timeout_ms = kPatienceMs};
}

std::string refusal(const ProgramCall& call) {
  Result<ProgramAnswer> answer = run_program(call);
  return answer ? "" : answer.error().message;
}

}  // namespace

TEST_CASE("a program gets its input, arguments and environment, and its answer is whole") {
  ProgramCall call = shell("cat; printf '%s|' \"$0\" \"$1\" \"$WORD\"; echo said >&2; exit 7");
  call.arguments.insert(call.arguments.end(), {"a b", "$(false)"});
  call.input = std::string(300'000, 'x');
  call.environment = {"WORD=new"};
  const ProgramAnswer answer = run_program(call).value();
  CHECK(answer.exit_status == 7);
  CHECK(answer.output == call.input + "a b|$(false)|new|");
  CHECK(answer.errors == "said\n");
}

TEST_CASE("a program that does not read its input is none the worse") {
  ProgramCall call = shell("exec true");
  call.input = std::string(1U << 20U, 'x');
  CHECK(run_program(call).value().exit_status == 0);
}

TEST_CASE("a program that cannot be started is named") {
  CHECK_THAT(refusal({.program = "/nowhere/array", .timeout_ms = kPatienceMs}),
             Catch::Contains("/nowhere/array cannot be started: No such file"));
}

TEST_CASE("a program that hangs is ended, with its children") {
  ProgramCall call = shell("trap '' TERM; sleep 1000 & wait; sleep 1000");
  call.timeout_ms = 100;
  CHECK_THAT(refusal(call), Catch::Contains("/bin/sh still ran after 0.1 s"));
}

TEST_CASE("a program that floods is ended") {
  ProgramCall call = shell("exec yes");
  call.output_limit_bytes = 10'000;
  CHECK_THAT(refusal(call), Catch::Contains("wrote more than the 10000 bytes"));
}

TEST_CASE("what floods standard error is an answer, and the end of it is kept") {
  const ProgramAnswer answer =
      run_program(shell("yes | head -c 1000000 >&2; echo 'the reason' >&2")).value();
  CHECK(answer.errors.size() <= 4096);
  CHECK(last_words(answer.errors) == "the reason");
}

TEST_CASE("a program that dies by a signal is told of") {
  CHECK_THAT(refusal(shell("kill -SEGV $$")), Catch::Contains("was ended by signal 11"));
}

TEST_CASE("a program that leaves a child with its output behind has ended all the same") {
  const ProgramAnswer answer = run_program(shell("sleep 20 & echo $!; exit 0")).value();
  REQUIRE_FALSE(answer.output.empty());
  ::kill(std::stoi(answer.output), SIGKILL);
}

TEST_CASE("last words are one line without control characters") {
  CHECK(last_words("").empty());
  CHECK(last_words(" \n\n").empty());
  CHECK(last_words("first\nsecond\x1b[31m\n \n") == "second [31m");
  CHECK(last_words(std::string(5000, 'x')).size() == 300);
}

}  // namespace plumb
