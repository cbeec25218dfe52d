// An image file of a test: in a folder on a disk file system, where O_DIRECT works.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "base/file.h"
#include "tests/temporary_folder.h"

namespace plumb {

class TestImage {
 public:
  explicit TestImage(uint64_t bytes) {
    const UniqueFd fd = open_file("image", path(), O_RDWR | O_CREAT).value();
    ENSURE(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  }
  std::string path() const { return folder_.path() + "/image"; }
  UniqueFd open(int flags = O_RDWR | O_DIRECT) const {
    return open_file("image", path(), flags).value();
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace plumb
