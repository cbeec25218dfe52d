#include "cli/terminal.h"

namespace plumb {

RawTerminal::RawTerminal(int fd) : fd_(fd) {
  if (::tcgetattr(fd_, &before_) != 0) return;
  termios raw = before_;
  ::cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own messages keep their line ends
  changed_ = ::tcsetattr(fd_, TCSANOW, &raw) == 0;
}

RawTerminal::~RawTerminal() {
  if (changed_) ::tcsetattr(fd_, TCSANOW, &before_);
}

}  // namespace plumb
