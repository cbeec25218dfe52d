#include "base/crc32c.h"

#include <catch2/catch.hpp>
#include <string>

namespace plumb {

TEST_CASE("CRC-32C gives the values of RFC 3720, appendix B.4") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
  std::string counting;
  for (char c = 0; c < 32; ++c) counting += c;
  CHECK(crc32c(counting) == 0x46dd794e);
}

}  // namespace plumb
