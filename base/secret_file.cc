#include "base/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"

namespace plumb {
namespace {

constexpr size_t kLimitBytes = 1024;

// Of the open file, so that nobody changes it in between.
Result<> check_private(const std::string& path, int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return os_error(errno, "{} cannot be looked at", path);
  if (!S_ISREG(status.st_mode))
    return failed("{} is no regular file; put the password into one", path);
  if (status.st_uid != ::geteuid()) {
    return failed("{} belongs to user {}, and is not trusted; run chown {} on it", path,
                  status.st_uid, ::geteuid());
  }
  const unsigned mode = status.st_mode & 07777U;
  if (mode == 0600 || mode == 0400) return {};
  return failed("{} has mode {:04o}, and others may read its password; run chmod 0600 on it", path,
                mode);
}

// At most `limit_bytes` and one more.
Result<std::string> read_some(const std::string& path, size_t limit_bytes) {
  // Without O_NONBLOCK a FIFO would be waited for.
  const UniqueFd file = TRY(open_file("secret file", path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  TRY(check_private(path, file.get()));
  std::string content(limit_bytes + 1, '\0');
  const ssize_t got = ::read(file.get(), content.data(), content.size());
  if (got < 0) return os_error(errno, "{} cannot be read", path);
  content.resize(static_cast<size_t>(got));
  return content;
}

}  // namespace

Result<std::string> read_private_file(const std::string& path, size_t limit_bytes) {
  std::string content = TRY(read_some(path, limit_bytes));
  if (content.empty()) return failed("{} is empty", path);
  if (content.size() <= limit_bytes) return content;
  return failed("{} has more than {} bytes", path, limit_bytes);
}

Result<std::string> read_secret(const std::string& path) {
  std::string secret = TRY(read_some(path, kLimitBytes));
  if (secret.ends_with('\n')) secret.pop_back();
  const bool one_line = std::ranges::none_of(secret, [](unsigned char c) { return c < ' '; });
  if (!secret.empty() && secret.size() < kLimitBytes && one_line) return secret;
  return failed("{} should have one line, the password, of less than {} bytes", path, kLimitBytes);
}

}  // namespace plumb
