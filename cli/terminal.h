// The terminal of a foreground VM or of `plumb console`: raw while this object lives.
#pragma once

#include <termios.h>

namespace plumb {

class RawTerminal {
 public:
  // Does nothing when `fd` is no terminal.
  explicit RawTerminal(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  int fd_;
  bool changed_ = false;
  termios before_{};
};

}  // namespace plumb
