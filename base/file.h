// The few file operations that several folders need, with their errors written out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// open(2) with O_CLOEXEC added. The error reads "WHAT PATH cannot be opened: REASON".
Result<UniqueFd> open_file(std::string_view what, const std::string& path, int flags,
                           unsigned mode = 0600);

// The whole content of a small file; an error when it is longer than `limit_bytes`.
Result<std::string> read_file(const std::string& path, size_t limit_bytes = 1U << 20U);

// Like read_file, but "" when the file cannot be read, and without trailing white space: for
// attributes in sysfs and procfs, which may vanish at any time.
std::string read_attribute(const std::string& path);

// The decimal number an attribute begins with; `otherwise` when there is none.
uint64_t read_number_attribute(const std::string& path, uint64_t otherwise = 0);

// Replaces `path` at once or not at all: temporary file, fsync, rename, fsync of the folder.
Result<> replace_file(const std::string& path, std::string_view content, unsigned mode = 0600);

// Makes `path` with this content, at once or not at all, and never in place of another file: then
// the error is EEXIST's. Temporary file of its own name, fsync, link, fsync of the folder.
Result<> create_file(const std::string& path, std::string_view content);

// Whether `path` names what is open as `fd`, and not another file that was put in its place.
bool is_still_at(int fd, const std::string& path);

// Makes a name that was added to, or taken from, the folder of `path` durable.
Result<> sync_folder_of(const std::string& path);

// mkdir -p; new folders get `mode`.
Result<> make_folders(const std::string& path, unsigned mode = 0755);

// An eventfd: non-blocking, closed on exec.
Result<UniqueFd> make_eventfd();
// Adds one to an eventfd. Any thread; a full counter is already a signal.
void signal_eventfd(int fd);
// Reads and so clears an eventfd.
void drain_eventfd(int fd);

}  // namespace plumb
