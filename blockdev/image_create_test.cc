#include "blockdev/image_create.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/temporary_folder.h"

namespace plumb {
namespace {

uint64_t allocated_bytes(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST_CASE("an image has its size, and every block is there") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/disk.img";
  uint64_t last = 0;
  REQUIRE(create_image_file({.path = path,
                             .size_bytes = (9U << 20U) + 4096,
                             .progress =
                                 [&](uint64_t done) {
                                   CHECK(done > last);
                                   last = done;
                                 }})
              .ok());
  CHECK(std::filesystem::file_size(path) == (9U << 20U) + 4096);
  CHECK(allocated_bytes(path) >= (9U << 20U));
  CHECK(last == (9U << 20U) + 4096);
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("a sparse image has its size and takes no room") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/disk.img";
  REQUIRE(create_image_file({.path = path, .size_bytes = 1ULL << 40U, .sparse = true}).ok());
  CHECK(std::filesystem::file_size(path) == 1ULL << 40U);
  CHECK(allocated_bytes(path) < (1U << 20U));
}

TEST_CASE("an image is not made over a file, nor where it does not fit, and leaves nothing") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/disk.img";
  const auto message = [&](const ImageCreateConfig& config) {
    return create_image_file(config).error().message;
  };
  CHECK(message({.path = path, .size_bytes = 1ULL << 60U}).find("does not fit") !=
        std::string::npos);
  CHECK(message({.path = path, .size_bytes = 0}) ==
        "an image of 0 bytes cannot be made; give a multiple of 4096");
  CHECK(message({.path = path, .size_bytes = 5000}) ==
        "an image of 5000 bytes cannot be made; give a multiple of 4096");
  CHECK(message({.path = folder.path() + "/none/disk.img", .size_bytes = 4096})
            .starts_with("folder " + folder.path() + "/none of image"));
  CHECK(std::filesystem::is_empty(folder.path()));
  std::ofstream(path) << "mine";
  CHECK(message({.path = path, .size_bytes = 4096}) ==
        path + " exists already; it is left as it is");
  CHECK(std::filesystem::file_size(path) == 4);
  std::filesystem::create_symlink(folder.path() + "/nowhere", folder.path() + "/link");
  CHECK(message({.path = folder.path() + "/link", .size_bytes = 4096}).find("exists already") !=
        std::string::npos);
}

}  // namespace plumb
