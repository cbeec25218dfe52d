#include "base/result.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>

namespace plumb {
namespace {

Result<int> half_of(int number) {
  if (number % 2 != 0) return failed("{} has no half", number);
  return number / 2;
}

Result<int> quarter_of(int number) {
  const int half = TRY(half_of(number));
  return half_of(half);
}

Result<std::unique_ptr<int>> boxed(int number) { return std::make_unique<int>(number); }

Result<int> unboxed(int number) {
  std::unique_ptr<int> box = TRY(boxed(number));
  return *box;
}

}  // namespace

TEST_CASE("TRY passes values on and errors up") {
  CHECK(quarter_of(12).value() == 3);
  Result<int> odd_half = quarter_of(6);
  REQUIRE_FALSE(odd_half.ok());
  CHECK(odd_half.error().message == "3 has no half");
}

TEST_CASE("TRY moves what cannot be copied") { CHECK(unboxed(7).value() == 7); }

TEST_CASE("an operating system error names what failed and why") {
  const Error error = os_error(ENOENT, "image {} cannot be opened", "a.img");
  CHECK(error.os_errno == ENOENT);
  CHECK(error.message == "image a.img cannot be opened: No such file or directory");
}

}  // namespace plumb
