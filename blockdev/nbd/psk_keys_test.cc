#include "blockdev/nbd/psk_keys.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "tests/temporary_folder.h"

namespace plumb::nbd {
namespace {

const std::string kHex = "000102030405060708090a0b0c0d0e0F";

}  // namespace

TEST_CASE("keys are read as psktool writes them") {
  const auto keys =
      parse_psk_keys("# comment\nann:" + kHex + "\n\nbob:" + std::string(128, 'f') + "\r\n")
          .value();
  REQUIRE(keys.size() == 2);
  CHECK(keys[0].user == "ann");
  CHECK(keys[0].key == std::string("\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17", 16));
  CHECK(keys[1].user == "bob");
  CHECK(keys[1].key == std::string(64, '\xff'));
  CHECK(parse_psk_keys("ann:" + kHex).value().size() == 1);
}

TEST_CASE("what is no key is refused with its line, and not shown") {
  for (const std::string& bad :
       {std::string(), std::string("# none\n"), std::string("ann\n"), ":" + kHex, "a b:" + kHex,
        "ann:" + kHex + "0", "ann:" + kHex.substr(2), "ann:" + std::string(130, 'a'),
        "ann:" + kHex.substr(2) + "0g", "ann:" + kHex + "\nann:" + kHex,
        std::string(200, 'a') + ":" + kHex, std::string("a\0b:", 4) + kHex, "ann: " + kHex}) {
    Result<std::vector<PskKey>> keys = parse_psk_keys(bad);
    CAPTURE(bad);
    REQUIRE_FALSE(keys.ok());
    CHECK_THAT(keys.error().message, !Catch::Contains("0102"));
  }
  Result<std::vector<PskKey>> second = parse_psk_keys("ann:" + kHex + "\nbob\n");
  CHECK_THAT(second.error().message, Catch::Contains("line 2"));
}

TEST_CASE("a key file that others may read is refused") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/keys";
  std::ofstream(path) << "ann:" << kHex << "\n";
  REQUIRE(::chmod(path.c_str(), 0600) == 0);
  CHECK(read_psk_keys(path).value().size() == 1);
  REQUIRE(::chmod(path.c_str(), 0640) == 0);
  CHECK_FALSE(read_psk_keys(path).ok());
}

}  // namespace plumb::nbd
