#include "snapshot/arrays/rbd_pool.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/program.h"

namespace plumb {
namespace {

// A pool's list of images is long where there are many.
constexpr size_t kAnswerBytes = 64U << 20U;
constexpr const char* kUdevSocket = "/run/udev/control";

Result<> fine_without(Result<> result) {
  if (result.ok() || result.error().os_errno != ENOENT) return result;
  return {};
}

}  // namespace

Error RbdPool::error(const std::string& text) const {
  const std::string slash = config_.pool_namespace.empty() ? "" : "/";
  return failed("array {} (Ceph pool {}{}{}): {}", config_.name, config_.pool, slash,
                config_.pool_namespace, text);
}

Result<std::string> RbdPool::run(const std::string& program, Words words,
                                 unsigned timeout_ms) const {
  const std::string what =
      program.substr(program.rfind('/') + 1) + " " + words[0] +
      (words.size() > 1 && words[1][0] != '-' && words[1][0] != '/' ? " " + words[1] : "");
  const std::pair<const char*, const std::string&> options[] = {{"--cluster=", config_.cluster},
                                                                {"--conf=", config_.conf},
                                                                {"--id=", config_.id},
                                                                {"--keyring=", config_.keyring}};
  for (const auto& [option, value] : options) {
    if (!value.empty()) words.push_back(option + value);
  }
  Result<ProgramAnswer> ran = run_program({.program = program,
                                           .arguments = std::move(words),
                                           .environment = {"LC_ALL=C"},
                                           .timeout_ms = timeout_ms,
                                           .output_limit_bytes = kAnswerBytes});
  if (!ran) return error(fmt::format("{}: {}", what, ran.error().message));
  if (ran->exit_status == 0) return std::move(ran->output);
  Error refused = error(fmt::format("{}: {}", what, last_words(ran->errors)));
  refused.os_errno = ran->exit_status;
  if (refused.os_errno == EBUSY) refused.kind = ErrorKind::kLocked;
  return refused;
}

Result<std::string> RbdPool::rbd(Words words) const {
  return run(config_.rbd_program, std::move(words), config_.timeout_ms);
}

Result<std::string> RbdPool::ceph(Words words) const {
  words.emplace_back("--format=json");
  return run(config_.ceph_program, std::move(words), config_.timeout_ms);
}

Result<> RbdPool::change(Words words, unsigned timeout_ms) const {
  TRY(run(config_.rbd_program, std::move(words), timeout_ms));
  return {};
}

template <typename T>
Result<T> RbdPool::read(const char* what, Result<T> answer) const {
  if (answer.ok()) return answer;
  return error(fmt::format("{}: {}", what, answer.error().message));
}

RbdPool::Words RbdPool::at_pool(Words words, const std::string& which) const {
  words.push_back("--" + which + "pool=" + config_.pool);
  if (!config_.pool_namespace.empty()) {
    words.push_back("--" + which + "namespace=" + config_.pool_namespace);
  }
  return words;
}

RbdPool::Words RbdPool::on(Words words, const std::string& image,
                           const std::string& snapshot) const {
  words = at_pool(std::move(words));
  words.push_back("--image=" + image);
  if (!snapshot.empty()) words.push_back("--snap=" + snapshot);
  return words;
}

Result<std::vector<RbdImage>> RbdPool::images() const {
  const std::string text = TRY(rbd(at_pool({"ls", "-l", "--format=json"})));
  return read("rbd ls", rbd_answer::images(text));
}

Result<std::vector<std::string>> RbdPool::names() const {
  const std::string text = TRY(rbd(at_pool({"ls", "--format=json"})));
  return read("rbd ls", rbd_answer::names(text));
}

Result<std::optional<RbdImage>> RbdPool::info(Words words) const {
  Result<std::string> text = rbd(std::move(words));
  if (!text && text.error().os_errno == ENOENT) return std::optional<RbdImage>();
  return std::optional<RbdImage>(TRY(read("rbd info", rbd_answer::image(TRY(std::move(text))))));
}

Result<std::optional<RbdImage>> RbdPool::image(const std::string& name) const {
  return info(on({"info", "--format=json"}, name));
}

Result<std::optional<RbdImage>> RbdPool::image_with_id(const std::string& id) const {
  return info(at_pool({"info", "--format=json", "--image-id=" + id}));
}

Result<std::vector<uint64_t>> RbdPool::watchers(const std::string& image) const {
  const std::string text = TRY(rbd(on({"status", "--format=json"}, image)));
  return read("rbd status", rbd_answer::watchers(text));
}

Result<> RbdPool::create(const std::string& image, uint64_t size_bytes) const {
  return change(on({"create", fmt::format("--size={}B", size_bytes)}, image));
}

Result<> RbdPool::rename(const std::string& image, const std::string& to) const {
  Words words = at_pool(on({"rename"}, image), "dest-");
  words.push_back("--dest=" + to);
  return change(std::move(words));
}

Result<> RbdPool::remove(const std::string& image) const {
  return fine_without(change(on({"rm", "--no-progress"}, image), config_.copy_timeout_ms));
}

Result<> RbdPool::create_snapshot(const std::string& image, const std::string& snapshot) const {
  return change(on({"snap", "create", "--no-progress"}, image, snapshot), config_.take_timeout_ms);
}

Result<> RbdPool::rename_snapshot(const std::string& image, const std::string& snapshot,
                                  const std::string& to) const {
  Words words = at_pool(on({"snap", "rename"}, image, snapshot), "dest-");
  words.push_back("--dest=" + image);
  words.push_back("--dest-snap=" + to);
  return change(std::move(words));
}

Result<> RbdPool::remove_snapshot(const std::string& image, const std::string& snapshot) const {
  return fine_without(change(on({"snap", "rm", "--no-progress"}, image, snapshot)));
}

// Format 2 needs no protected snapshots, and lets a snapshot go before its clones.
Result<> RbdPool::clone(const std::string& image, const std::string& snapshot,
                        const std::string& to) const {
  Words words = at_pool(on({"clone", "--rbd-default-clone-format=2"}, image, snapshot), "dest-");
  words.push_back("--dest=" + to);
  return change(std::move(words));
}

Result<> RbdPool::roll_back(const std::string& image, const std::string& snapshot) const {
  return change(on({"snap", "rollback", "--no-progress"}, image, snapshot),
                config_.copy_timeout_ms);
}

// Where no udevd runs, rbd would wait for it without end.
Result<> RbdPool::map(const std::string& image, const std::string& snapshot) const {
  Words words = on({"device", "map"}, image, snapshot);
  if (!snapshot.empty()) words.emplace_back("--read-only");
  if (::access(kUdevSocket, F_OK) != 0) words.emplace_back("--options=noudev");
  return change(std::move(words));
}

Result<> RbdPool::unmap(const std::string& device) const {
  Words words = {"device", "unmap", device};
  if (::access(kUdevSocket, F_OK) != 0) words.emplace_back("--options=noudev");
  return change(std::move(words));
}

Result<std::string> RbdPool::fsid() const {
  const std::string text = TRY(ceph({"fsid"}));
  return read("ceph fsid", rbd_answer::fsid(text));
}

Result<ArrayCapacity> RbdPool::capacity() const {
  const std::string text = TRY(ceph({"df", "detail"}));
  return read("ceph df", rbd_answer::capacity(text, config_.pool));
}

Result<RbdHealth> RbdPool::health() const {
  const std::string text = TRY(ceph({"health", "detail"}));
  return read("ceph health", rbd_answer::health(text, config_.pool));
}

}  // namespace plumb
