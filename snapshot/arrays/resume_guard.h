// ResumeGuard: a process that sets going again what this one holds still, should this one die or
// take too long: a freeze always ends.
#pragma once

#include <sys/types.h>

#include <functional>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class ResumeGuard {
 public:
  // Forks the process, which waits. It calls `resume` once: when this process is gone between
  // begin() and end(), or `limit_ms` after begin().
  static Result<ResumeGuard> make(const std::function<void()>& resume, unsigned limit_ms);
  ResumeGuard(ResumeGuard&& other) noexcept
      : socket_(std::move(other.socket_)), pid_(std::exchange(other.pid_, -1)) {}
  ResumeGuard& operator=(ResumeGuard&&) = delete;
  ~ResumeGuard();

  // What `resume` undoes begins.
  void begin();
  // It is over; false when the guard had to step in meanwhile. Once, after begin().
  bool end();

 private:
  ResumeGuard(UniqueFd socket, pid_t pid) : socket_(std::move(socket)), pid_(pid) {}
  int wait();

  UniqueFd socket_;
  pid_t pid_ = -1;
};

}  // namespace plumb
