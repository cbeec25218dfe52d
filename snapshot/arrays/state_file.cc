#include "snapshot/arrays/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

constexpr size_t kMaxStateBytes = 64U << 20U;
constexpr int kPatienceMs = 120'000;
constexpr int kStepMs = 20;

}  // namespace

Result<nlohmann::json> StateFile::read() const {
  struct stat status {};
  if (::stat(path_.c_str(), &status) != 0 && errno == ENOENT) {
    return nlohmann::json{{"kind", kind_}};
  }
  const std::string text = TRY(read_file(path_, kMaxStateBytes));
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("kind", nlohmann::json()) != kind_) {
    return failed(
        "array {}: {} is not its state file, or is damaged; it says which snapshots are "
        "whose, so bring back a copy of it",
        array_, path_);
  }
  return json;
}

Result<StateFile::Locked> StateFile::lock() const {
  TRY(make_folders(std::filesystem::path(path_).parent_path().string(), 0700));
  UniqueFd fd =
      TRY(open_file(fmt::format("array {}: lock", array_), path_ + ".lock", O_RDWR | O_CREAT));
  for (int waited_ms = 0;; waited_ms += kStepMs) {
    Result<> locked =
        lock_file(fd.get(), fmt::format("array {}: its state {}", array_, path_), true);
    if (locked) break;
    if (locked.error().kind != ErrorKind::kLocked || waited_ms >= kPatienceMs) {
      return std::move(locked).error();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kStepMs));
  }
  nlohmann::json json = TRY(read());
  return Locked(path_, std::move(fd), std::move(json));
}

Result<> StateFile::Locked::store() { return replace_file(path_, json_.dump(1) + "\n"); }

}  // namespace plumb
