#include "base/size.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("sizes are read as people write them") {
  CHECK(parse_size("4096").value() == 4096);
  CHECK(parse_size("64K").value() == 64 * kKiB);
  CHECK(parse_size("512m").value() == 512 * kMiB);
  CHECK(parse_size("512MiB").value() == 512 * kMiB);
  CHECK(parse_size("6 GiB").value() == 6 * kGiB);
  CHECK(parse_size("2TB").value() == 2048 * kGiB);
}

TEST_CASE("what is no size is refused as a usage error") {
  const char* text = GENERATE("", "G", "12Q", "1.5G", "-1", "512 Mi B x", "9223372036854775808",
                              "9000000000000P", "1KK");
  CAPTURE(text);
  Result<uint64_t> size = parse_size(text);
  REQUIRE_FALSE(size.ok());
  CHECK(size.error().kind == ErrorKind::kUsage);
  CHECK(size.error().message.find(text) != std::string::npos);
}

TEST_CASE("sizes are written with one decimal at most") {
  CHECK(format_size(17) == "17 B");
  CHECK(format_size(512 * kMiB) == "512 MiB");
  CHECK(format_size(1536 * kMiB) == "1.5 GiB");
}

}  // namespace plumb
