#include "snapshot/freeze_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace plumb {
namespace {

constexpr size_t kMaxBytes = 4096;

}  // namespace

Result<FreezeJournal> FreezeJournal::open(const std::string& path) {
  UniqueFd fd = TRY(open_file("journal", path, O_RDWR | O_CREAT | O_NOFOLLOW));
  return FreezeJournal(std::move(fd), path);
}

Result<std::string> FreezeJournal::read() const {
  std::string text(kMaxBytes, '\0');
  const ssize_t got = ::pread(fd_.get(), text.data(), text.size(), 0);
  if (got < 0) return os_error(errno, "journal {} cannot be read", path_);
  text.resize(static_cast<size_t>(got));
  return text;
}

Result<> FreezeJournal::write(const std::string& text) {
  const std::string kept = text.substr(0, kMaxBytes);
  if (::pwrite(fd_.get(), kept.data(), kept.size(), 0) != static_cast<ssize_t>(kept.size()) ||
      ::ftruncate(fd_.get(), static_cast<off_t>(kept.size())) != 0 || ::fdatasync(fd_.get()) != 0) {
    return os_error(errno, "journal {} cannot be written", path_);
  }
  return {};
}

Result<> FreezeJournal::clear() {
  if (::ftruncate(fd_.get(), 0) != 0 || ::fdatasync(fd_.get()) != 0) {
    return os_error(errno, "journal {} cannot be emptied", path_);
  }
  return {};
}

}  // namespace plumb
