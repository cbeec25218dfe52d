// plumb image create: a raw image file whose blocks are all there.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "blockdev/image_create.h"
#include "cli/commands.h"

namespace plumb {
namespace {

// On a terminal, one line that is written over: "disk.img  42 %  1.2 GiB".
void show_progress(const std::string& path, uint64_t done_bytes, uint64_t all_bytes) {
  fmt::print(stderr, "\r{}  {:3} %  {}   {}", path, done_bytes * 100 / all_bytes,
             format_size(done_bytes), done_bytes == all_bytes ? "\n" : "");
}

}  // namespace

Result<ExitCode> create_image(const std::string& path, const std::string& size, bool sparse) {
  const uint64_t size_bytes = TRY(parse_size(size));
  ImageCreateConfig config{.path = path, .size_bytes = size_bytes, .sparse = sparse};
  if (::isatty(STDERR_FILENO) != 0) {
    config.progress = [&](uint64_t done_bytes) { show_progress(path, done_bytes, size_bytes); };
  }
  TRY(create_image_file(config));
  return kExitOk;
}

}  // namespace plumb
