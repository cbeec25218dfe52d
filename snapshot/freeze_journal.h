// FreezeJournal: remembers, over the death of whoever keeps it, that a guest may be frozen.
//
// One small file, written through before the freeze is asked for and emptied after the thaw: what
// it says errs towards "frozen". Its descriptor is enough: the process may open nothing.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class FreezeJournal {
 public:
  // Makes the file if need be, with mode 0600.
  static Result<FreezeJournal> open(const std::string& path);

  // What was written last; "" when the guest is not frozen.
  Result<std::string> read() const;
  // `text`: who freezes, and when.
  Result<> write(const std::string& text);
  Result<> clear();

 private:
  FreezeJournal(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

}  // namespace plumb
