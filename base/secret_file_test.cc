#include "base/secret_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/temporary_folder.h"

namespace plumb {
namespace {

class SecretFile {
 public:
  explicit SecretFile(const std::string& content, mode_t mode = 0600) {
    std::ofstream(path()) << content;
    REQUIRE(::chmod(path().c_str(), mode) == 0);
  }
  std::string path() const { return folder_.path() + "/password"; }
  std::string refusal() const {
    Result<std::string> secret = read_secret(path());
    return secret ? "" : secret.error().message;
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("a password is the one line of its file") {
  const SecretFile line("s3cret \xc3\xbc\n");
  CHECK(read_secret(line.path()).value() == "s3cret \xc3\xbc");
  const SecretFile bare("s3cret", 0400);
  CHECK(read_secret(bare.path()).value() == "s3cret");
}

TEST_CASE("a password that others may read is refused, and not shown") {
  for (const mode_t mode : {0644U, 0640U, 0604U, 0660U, 0700U, 04600U}) {
    const SecretFile file("s3cret", mode);
    CAPTURE(mode);
    CHECK_THAT(file.refusal(), Catch::Contains("others may read its password"));
    CHECK_THAT(file.refusal(), !Catch::Contains("s3cret"));
  }
  if (::geteuid() == 0) {
    const SecretFile file("s3cret");
    REQUIRE(::chown(file.path().c_str(), 12345, 0) == 0);
    CHECK_THAT(file.refusal(), Catch::Contains("belongs to user 12345"));
  }
}

TEST_CASE("what is no file with a password is refused") {
  for (const std::string& content : {std::string(), std::string("\n"), std::string("a\nb\n"),
                                     std::string("a\0b", 3), std::string(5000, 'x')}) {
    CHECK_THAT(SecretFile(content).refusal(), Catch::Contains("should have one line"));
  }
  const TemporaryFolder folder;
  CHECK_FALSE(read_secret(folder.path()).ok());
  CHECK_FALSE(read_secret(folder.path() + "/none").ok());
  REQUIRE(::mkfifo((folder.path() + "/fifo").c_str(), 0600) == 0);
  CHECK_FALSE(read_secret(folder.path() + "/fifo").ok());
  const SecretFile file("s3cret");
  std::filesystem::create_symlink(file.path(), folder.path() + "/link");
  CHECK_FALSE(read_secret(folder.path() + "/link").ok());
}

TEST_CASE("a private file may have lines, and a limit") {
  const SecretFile lines("a:1\nb:2\n");
  CHECK(read_private_file(lines.path(), 8).value() == "a:1\nb:2\n");
  CHECK_THAT(read_private_file(lines.path(), 7).error().message, Catch::Contains("more than 7"));
  CHECK_FALSE(read_private_file(SecretFile("").path(), 8).ok());
  const SecretFile open("a:1\n", 0644);
  CHECK_THAT(read_private_file(open.path(), 8).error().message, Catch::Contains("others may read"));
}

}  // namespace plumb
