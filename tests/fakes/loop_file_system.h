// A file system of a test's own, on an image file and a loop device, mounted where nobody else sees
// it: in a mount namespace that ends with the test's process.
#pragma once

#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/temporary_folder.h"

namespace plumb {

class LoopFileSystem {
 public:
  // `make` is the command that makes the file system on the file that is its last word:
  // "mkfs.xfs -q".
  explicit LoopFileSystem(const std::string& make, const std::string& size = "512M") {
    const std::string image = folder_.path() + "/image";
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      missing_ = "mounting needs root";
      return;
    }
    std::filesystem::create_directory(path());
    if (!runs("truncate -s " + size + " " + image) || !runs(make + " " + image)) {
      missing_ = make + " does not work here";
    } else if (!runs("mount -o loop " + image + " " + path())) {
      missing_ = "what " + make + " made cannot be mounted on a loop device here";
    }
  }
  LoopFileSystem(const LoopFileSystem&) = delete;
  LoopFileSystem& operator=(const LoopFileSystem&) = delete;
  ~LoopFileSystem() { ::umount2(path().c_str(), MNT_DETACH); }

  // Why there is none, or "".
  const std::string& missing() const { return missing_; }
  std::string path() const { return folder_.path() + "/mounted"; }

 private:
  static bool runs(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) ==
           0;  // NOLINT: the test's own words
  }

  TemporaryFolder folder_;
  std::string missing_;
};

}  // namespace plumb
