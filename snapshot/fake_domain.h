// FakeDomain: a guest of libvirt that is not there: its state, what was asked of it, and the errors
// that a test has it answer with.
#pragma once

#include <atomic>
#include <cerrno>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "snapshot/libvirt_domain.h"

namespace plumb {

class FakeDomain final : public LibvirtDomain {
 public:
  // Asked before each call, by its name; an error is the answer.
  using Override = std::function<Result<>(const std::string& call)>;

  Result<State> state() override {
    TRY(hear("state"));
    return is;
  }
  Result<> set_agent_timeout(std::optional<std::chrono::seconds> timeout) override {
    TRY(hear(timeout ? "timeout " + std::to_string(timeout->count()) : "timeout none"));
    return {};
  }
  Result<GuestOs> os() override {
    TRY(hear("os"));
    return GuestOs{.id = "debian", .name = "Debian", .kernel = "6.1"};
  }
  Result<std::vector<GuestFileSystem>> file_systems() override {
    TRY(hear("file_systems"));
    if (frozen) return failed("the agent is in frozen state");
    return std::vector<GuestFileSystem>{{.mountpoint = "/data", .type = "ext4", .serials = {}}};
  }
  Result<unsigned> freeze(const std::vector<std::string>& mountpoints) override {
    TRY(hear("freeze"));
    if (is != State::kRunning) return failed("domain is not running");
    frozen = true;
    return mountpoints.empty() ? 2U : static_cast<unsigned>(mountpoints.size());
  }
  Result<unsigned> thaw() override {
    TRY(hear("thaw"));
    if (is != State::kRunning) return failed("domain is not running");
    return frozen.exchange(false) ? 2U : 0U;
  }
  Result<> suspend() override {
    TRY(hear("suspend"));
    is = State::kPaused;
    return {};
  }
  Result<> resume() override {
    TRY(hear("resume"));
    is = State::kRunning;
    return {};
  }

  void override_with(Override override) {
    const std::lock_guard lock(mutex_);
    override_ = std::move(override);
  }
  std::vector<std::string> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  bool has_heard(const std::string& call) {
    for (const std::string& one : heard()) {
      if (one == call) return true;
    }
    return false;
  }
  static Error no_answer() { return Error{ErrorKind::kFailed, ETIMEDOUT, "no answer"}; }

  std::atomic<State> is = State::kRunning;
  std::atomic<bool> frozen = false;

 private:
  Result<> hear(const std::string& call) {
    Override override;
    {
      const std::lock_guard lock(mutex_);
      heard_.push_back(call);
      override = override_;
    }
    return override ? override(call) : Result<>();
  }

  std::mutex mutex_;
  Override override_;
  std::vector<std::string> heard_;
};

}  // namespace plumb
