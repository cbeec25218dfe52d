#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <filesystem>
#include <iterator>

#include "tests/temporary_folder.h"

namespace plumb {

TEST_CASE("a replaced file has the new content and the asked mode") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/state";
  REQUIRE(replace_file(path, "one").ok());
  REQUIRE(replace_file(path, "two").ok());
  CHECK(read_file(path).value() == "two");
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("a created file is whole, for its owner only, and never in place of another") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/new";
  REQUIRE(create_file(path, "one").ok());
  Result<> again = create_file(path, "two");
  REQUIRE_FALSE(again.ok());
  CHECK(again.error().os_errno == EEXIST);
  CHECK(read_file(path).value() == "one");
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  // Nothing but the file is left: neither of what succeeded nor of what failed.
  CHECK(status.st_nlink == 1);
  const std::filesystem::directory_iterator entries(folder.path());
  CHECK(std::distance(begin(entries), end(entries)) == 1);
  CHECK_FALSE(create_file(folder.path() + "/none/new", "x").ok());
}

TEST_CASE("a file longer than its limit is refused") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/long";
  REQUIRE(replace_file(path, std::string(5000, 'x')).ok());
  CHECK(read_file(path, 5000).ok());
  CHECK_FALSE(read_file(path, 4999).ok());
}

TEST_CASE("attributes lose their line end, and a missing one is empty") {
  const TemporaryFolder folder;
  REQUIRE(replace_file(folder.path() + "/wwid", "naa.5000\n").ok());
  CHECK(read_attribute(folder.path() + "/wwid") == "naa.5000");
  CHECK(read_attribute(folder.path() + "/none").empty());
}

TEST_CASE("folders are made with their parents, and a file in the way is named") {
  const TemporaryFolder folder;
  CHECK(make_folders(folder.path() + "/a/b/c").ok());
  CHECK(make_folders(folder.path() + "/a/b/c").ok());
  REQUIRE(replace_file(folder.path() + "/f", "").ok());
  Result<> blocked = make_folders(folder.path() + "/f");
  REQUIRE_FALSE(blocked.ok());
  CHECK(blocked.error().message.find("/f is in the way") != std::string::npos);
}

TEST_CASE("a file that another has taken the place of is not at its path any more") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/a";
  REQUIRE(replace_file(path, "one").ok());
  const UniqueFd fd = open_file("file", path, O_RDONLY).value();
  CHECK(is_still_at(fd.get(), path));
  REQUIRE(replace_file(path, "two").ok());
  CHECK_FALSE(is_still_at(fd.get(), path));
  REQUIRE(::unlink(path.c_str()) == 0);
  CHECK_FALSE(is_still_at(fd.get(), path));
}

TEST_CASE("an open that fails says what, where and why") {
  Result<UniqueFd> fd = open_file("image", "/nonexistent/a.img", O_RDONLY);
  REQUIRE_FALSE(fd.ok());
  CHECK(fd.error().message ==
        "image /nonexistent/a.img cannot be opened: No such file or directory");
}

}  // namespace plumb
