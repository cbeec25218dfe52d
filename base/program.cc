#include "base/program.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "base/unique_fd.h"

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kErrorsBytes = 4096;
constexpr size_t kWordsBytes = 300;
constexpr int kTermPatienceMs = 1000;

// A whole file: no pipe that breaks when the program does not read.
Result<UniqueFd> input_file(const std::string& input) {
  UniqueFd file(::memfd_create("input", MFD_CLOEXEC));
  const auto size = static_cast<ssize_t>(input.size());
  if (!file || ::write(file.get(), input.data(), input.size()) != size ||
      ::lseek(file.get(), 0, SEEK_SET) != 0) {
    return os_error(errno, "the input of a program cannot be kept in memory");
  }
  return file;
}

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return os_error(errno, "a pipe cannot be made");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  ::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK);
  return pipe;
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> environment_of(const ProgramCall& call) {
  std::vector<std::string> all = call.environment;
  for (char** variable = ::environ; *variable != nullptr; ++variable) {
    const std::string name(*variable, std::strcspn(*variable, "="));
    const bool given = std::ranges::any_of(call.environment, [&name](const std::string& other) {
      return other.starts_with(name + "=");
    });
    if (!given) all.emplace_back(*variable);
  }
  return all;
}

// In a process group of its own, with the signal actions and mask that programs expect.
Result<pid_t> spawn(const ProgramCall& call, int input, int output, int errors) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<std::string> arguments = call.arguments;
  arguments.insert(arguments.begin(), call.program);
  std::vector<std::string> environment = environment_of(call);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, call.program.c_str(), &actions, &attributes,
                                  pointers_to(arguments).data(), pointers_to(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return os_error(error, "{} cannot be started", call.program);
  return pid;
}

class Running {
 public:
  Running(pid_t pid, UniqueFd output, UniqueFd errors)
      : pid_(pid),
        ended_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))),
        output_(std::move(output)),
        errors_(std::move(errors)) {}

  // Until it has ended, the deadline is past, or it has written more than the limit.
  void follow(Clock::time_point deadline, size_t limit_bytes) {
    while (!has_ended_ && answer_.output.size() <= limit_bytes) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) return;
      pollfd polled[] = {
          {ended_.get(), POLLIN, 0}, {output_.get(), POLLIN, 0}, {errors_.get(), POLLIN, 0}};
      if (::poll(polled, std::size(polled), static_cast<int>(left.count())) < 0) continue;
      // First, so that all is read that it wrote before its end.
      has_ended_ = polled[0].revents != 0;
      read_all(output_, answer_.output, limit_bytes);
      read_all(errors_, answer_.errors, SIZE_MAX);
    }
  }

  bool has_ended() const { return has_ended_; }
  ProgramAnswer& answer() { return answer_; }

  // Ends it and its children, at first politely.
  void stop() {
    output_.reset();
    errors_.reset();
    ::kill(-pid_, SIGTERM);
    pollfd ended{ended_.get(), POLLIN, 0};
    ::poll(&ended, 1, kTermPatienceMs);
    ::kill(-pid_, SIGKILL);
  }

  // The status as waitpid(2) has it.
  int reap() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
  }

 private:
  // What can be read now; of the errors the end is kept.
  void read_all(UniqueFd& from, std::string& into, size_t limit_bytes) const {
    char buffer[16384];
    while (from && into.size() <= limit_bytes) {
      const ssize_t done = ::read(from.get(), buffer, sizeof(buffer));
      if (done < 0) return;
      if (done == 0) from.reset();
      into.append(buffer, static_cast<size_t>(done));
      if (&into == &answer_.errors && into.size() > kErrorsBytes) {
        into.erase(0, into.size() - kErrorsBytes);
      }
    }
  }

  const pid_t pid_;
  const UniqueFd ended_;
  UniqueFd output_;
  UniqueFd errors_;
  bool has_ended_ = false;
  ProgramAnswer answer_;
};

}  // namespace

Result<ProgramAnswer> run_program(const ProgramCall& call) {
  const UniqueFd input = TRY(input_file(call.input));
  Pipe output = TRY(make_pipe());
  Pipe errors = TRY(make_pipe());
  const pid_t pid = TRY(spawn(call, input.get(), output.write.get(), errors.write.get()));
  output.write.reset();
  errors.write.reset();
  Running running(pid, std::move(output.read), std::move(errors.read));
  running.follow(Clock::now() + std::chrono::milliseconds(call.timeout_ms),
                 call.output_limit_bytes);
  const bool flooded = running.answer().output.size() > call.output_limit_bytes;
  const bool in_time = running.has_ended();
  if (!in_time || flooded) running.stop();
  const int status = running.reap();
  if (flooded) {
    return failed("{} wrote more than the {} bytes that it may, and was ended", call.program,
                  call.output_limit_bytes);
  }
  if (!in_time) {
    return failed("{} still ran after {} s, and was ended", call.program,
                  static_cast<double>(call.timeout_ms) / 1000);
  }
  if (WIFSIGNALED(status)) {
    return failed("{} was ended by signal {} ({})", call.program, WTERMSIG(status),
                  ::strsignal(WTERMSIG(status)));
  }
  running.answer().exit_status = WEXITSTATUS(status);
  return std::move(running.answer());
}

std::string last_words(const std::string& errors) {
  const size_t last = errors.find_last_not_of(" \t\r\n");
  if (last == std::string::npos) return {};
  const size_t newline = errors.rfind('\n', last);
  const size_t first = newline == std::string::npos ? 0 : newline + 1;
  std::string words = errors.substr(first, std::min(last + 1 - first, kWordsBytes));
  std::ranges::replace_if(
      words, [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return words;
}

}  // namespace plumb
