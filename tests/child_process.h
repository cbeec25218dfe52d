// Runs a function in another process: there, what this one holds is somebody else's.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "base/check.h"

namespace plumb {

// What `attempt` returns in a forked child. The child has this process's descriptors too: it closes
// first what it should not hold.
inline std::string in_child(const std::function<std::string()>& attempt) {
  int ends[2];
  ENSURE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string text = attempt();
    const ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  ENSURE(child > 0);
  ::close(ends[1]);
  std::string said;
  char buffer[1024];
  for (ssize_t length = 0; (length = ::read(ends[0], buffer, sizeof(buffer))) > 0;) {
    said.append(buffer, static_cast<size_t>(length));
  }
  ::close(ends[0]);
  int status = 0;
  ENSURE(::waitpid(child, &status, 0) == child && status == 0);
  return said;
}

}  // namespace plumb
