#include "cli/output.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("control bytes of others' text do not reach the terminal") {
  CHECK(printable("data 1") == "data 1");
  CHECK(printable("\x1b[2Jgone") == "\\x1b[2Jgone");
  CHECK(printable("a\nb\x7f") == "a\\x0ab\\x7f");
  CHECK(printable("Größe") == "Größe");
}

}  // namespace plumb
