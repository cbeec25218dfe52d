#include "base/text.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("control bytes of others' text do not reach the terminal") {
  CHECK(printable("data 1") == "data 1");
  CHECK(printable("\x1b[2Jgone") == "\\x1b[2Jgone");
  CHECK(printable("a\nb\x7f") == "a\\x0ab\\x7f");
  CHECK(printable("Größe") == "Größe");
}

TEST_CASE("base64 is decoded as RFC 4648 has it") {
  CHECK(decode_base64("").value().empty());
  CHECK(decode_base64("Zg==").value() == "f");
  CHECK(decode_base64("Zm8=").value() == "fo");
  CHECK(decode_base64("Zm9v").value() == "foo");
  CHECK(decode_base64("Zm9vYmFy").value() == "foobar");
  CHECK(decode_base64("AP+A").value() == std::string("\x00\xff\x80", 3));
}

TEST_CASE("what is no base64 is refused") {
  for (const char* text : {"Z", "Zg", "Zg=", "Zm9v=", "====", "Zm9v====", "Zm 9v", "Zm9\n",
                           "Zh==", "Zm9=", "=Zm9", "Zm-_"}) {
    INFO(text);
    CHECK_FALSE(decode_base64(text).ok());
  }
}

}  // namespace plumb
