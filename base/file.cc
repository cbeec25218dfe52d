#include "base/file.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace plumb {
namespace {

Result<> write_all(int fd, const std::string& path, std::string_view content) {
  while (!content.empty()) {
    const ssize_t done = ::write(fd, content.data(), content.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return os_error(errno, "{} cannot be written", path);
    content.remove_prefix(static_cast<size_t>(done));
  }
  return {};
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<> write_durably(int fd, const std::string& path, std::string_view content) {
  TRY(write_all(fd, path, content));
  if (::fsync(fd) != 0) return os_error(errno, "{} cannot be made durable", path);
  return {};
}

}  // namespace

Result<UniqueFd> open_file(std::string_view what, const std::string& path, int flags,
                           unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return os_error(errno, "{} {} cannot be opened", what, path);
  return fd;
}

Result<std::string> read_file(const std::string& path, size_t limit_bytes) {
  const UniqueFd fd = TRY(open_file("file", path, O_RDONLY));
  std::string content;
  char buffer[16384];
  while (true) {
    const ssize_t done = ::read(fd.get(), buffer, sizeof(buffer));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return os_error(errno, "{} cannot be read", path);
    if (done == 0) return content;
    content.append(buffer, static_cast<size_t>(done));
    if (content.size() > limit_bytes) {
      return failed("{} is longer than the {} bytes such a file may have", path, limit_bytes);
    }
  }
}

std::string read_attribute(const std::string& path) {
  Result<std::string> content = read_file(path, 65536);
  if (!content) return {};
  std::string text = std::move(content).value();
  const size_t last = text.find_last_not_of(" \t\r\n");
  text.resize(last == std::string::npos ? 0 : last + 1);
  return text;
}

uint64_t read_number_attribute(const std::string& path, uint64_t otherwise) {
  const std::string text = read_attribute(path);
  uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() ? value : otherwise;
}

Result<> replace_file(const std::string& path, std::string_view content, unsigned mode) {
  const std::string temporary = path + ".new";
  UniqueFd fd = TRY(open_file("file", temporary, O_WRONLY | O_CREAT | O_TRUNC, mode));
  TRY(write_durably(fd.get(), temporary, content));
  fd.reset();
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return os_error(errno, "{} cannot be renamed to {}", temporary, path);
  }
  return sync_folder_of(path);
}

Result<> create_file(const std::string& path, std::string_view content) {
  std::string temporary = path + ".XXXXXX";
  const UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return os_error(errno, "{} cannot be made", path);
  Result<> made = write_durably(fd.get(), temporary, content);
  if (made && ::link(temporary.c_str(), path.c_str()) != 0) {
    made = os_error(errno, "{} cannot be made", path);
  }
  ::unlink(temporary.c_str());
  TRY(made);
  return sync_folder_of(path);
}

bool is_still_at(int fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

Result<> sync_folder_of(const std::string& path) {
  const std::string folder = folder_of(path);
  const UniqueFd fd = TRY(open_file("folder", folder, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return os_error(errno, "{} cannot be made durable", folder);
  return {};
}

Result<> make_folders(const std::string& path, unsigned mode) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST) {
      return os_error(errno, "folder {} cannot be made", part);
    }
    if (end == std::string::npos) break;
  }
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return os_error(errno, "folder {} cannot be used", path);
  if (!S_ISDIR(status.st_mode)) return failed("{} is in the way of a folder of that name", path);
  return {};
}

Result<UniqueFd> make_eventfd() {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd) return os_error(errno, "an eventfd cannot be made");
  return fd;
}

void signal_eventfd(int fd) {
  const uint64_t one = 1;
  while (::write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void drain_eventfd(int fd) {
  uint64_t count = 0;
  while (::read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

}  // namespace plumb
