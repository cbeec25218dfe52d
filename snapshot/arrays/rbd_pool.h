// The pool that an array of the provider rbd is, by its programs. Each call is one run of one.
//
// Errors name the array and the pool; their os_errno is the program's exit status, which is an
// errno of Ceph's: ENOENT, EEXIST, ENOTEMPTY; kLocked for EBUSY.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/rbd.h"
#include "snapshot/arrays/rbd_answer.h"

namespace plumb {

class RbdPool {
 public:
  explicit RbdPool(RbdConfig config) : config_(std::move(config)) {}

  const RbdConfig& config() const { return config_; }
  Error error(const std::string& text) const;

  Result<std::vector<RbdImage>> images() const;
  // Also of what images() leaves out, because it cannot be opened.
  Result<std::vector<std::string>> names() const;
  Result<std::optional<RbdImage>> image(const std::string& name) const;
  Result<std::optional<RbdImage>> image_with_id(const std::string& id) const;
  Result<std::vector<uint64_t>> watchers(const std::string& image) const;

  Result<> create(const std::string& image, uint64_t size_bytes) const;
  Result<> rename(const std::string& image, const std::string& to) const;
  // What is not there is fine.
  Result<> remove(const std::string& image) const;

  Result<> create_snapshot(const std::string& image, const std::string& snapshot) const;
  Result<> rename_snapshot(const std::string& image, const std::string& snapshot,
                           const std::string& to) const;
  // What is not there is fine.
  Result<> remove_snapshot(const std::string& image, const std::string& snapshot) const;
  Result<> clone(const std::string& image, const std::string& snapshot,
                 const std::string& to) const;
  // EROFS: a client has the image's lock.
  Result<> roll_back(const std::string& image, const std::string& snapshot) const;

  // `snapshot` is "" for the image itself.
  Result<> map(const std::string& image, const std::string& snapshot) const;
  Result<> unmap(const std::string& device) const;

  Result<std::string> fsid() const;
  Result<ArrayCapacity> capacity() const;
  Result<RbdHealth> health() const;

 private:
  using Words = std::vector<std::string>;

  Result<std::string> run(const std::string& program, Words words, unsigned timeout_ms) const;
  Result<std::string> rbd(Words words) const;
  Result<std::string> ceph(Words words) const;
  Result<> change(Words words, unsigned timeout_ms) const;
  Result<> change(Words words) const { return change(std::move(words), config_.timeout_ms); }
  Result<std::optional<RbdImage>> info(Words words) const;
  // What an answer says, or whose it was.
  template <typename T>
  Result<T> read(const char* what, Result<T> answer) const;
  // The words that say where an image is; `which` is "" or "dest-".
  Words at_pool(Words words, const std::string& which = "") const;
  Words on(Words words, const std::string& image, const std::string& snapshot = "") const;

  const RbdConfig config_;
};

}  // namespace plumb
