#include "base/iovecs.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

namespace plumb {
namespace {

// The text in pieces of the lengths given.
struct Pieces {
  Pieces(std::string all, const std::vector<size_t>& lengths) : text(std::move(all)) {
    char* at = text.data();
    for (const size_t length : lengths) {
      parts.push_back({at, length});
      at += length;
    }
  }
  std::string text;
  std::vector<iovec> parts;
};

std::span<std::byte> bytes_of(std::string& text) { return std::as_writable_bytes(std::span(text)); }

}  // namespace

TEST_CASE("iovecs: the front is taken over borders, and no more than there is") {
  Pieces pieces("abcdefgh", {1, 0, 3, 4});
  std::span<iovec> rest(pieces.parts);
  std::string two(2, '-');
  REQUIRE(take_front(rest, bytes_of(two)));
  CHECK(two == "ab");
  CHECK(total_bytes(rest) == 6);
  std::string six(6, '-');
  REQUIRE(take_front(rest, bytes_of(six)));
  CHECK(six == "cdefgh");
  CHECK(rest.empty());
  CHECK(!take_front(rest, bytes_of(two)));
}

TEST_CASE("iovecs: what is copied ends with the shorter side") {
  Pieces pieces("abcdefgh", {3, 5});
  std::string ten(10, '-');
  CHECK(copy_from(pieces.parts, bytes_of(ten)) == 8);
  CHECK(ten == "abcdefgh--");
  CHECK(copy_to(pieces.parts, bytes_of(ten)) == 8);
  std::string five = "12345";
  CHECK(copy_to(pieces.parts, bytes_of(five)) == 5);
  CHECK(pieces.text == "12345fgh");
}

TEST_CASE("iovecs: buffers are cut to a length") {
  Pieces pieces("abcdefgh", {3, 5});
  std::span<iovec> parts(pieces.parts);
  cut_to(parts, 4);
  REQUIRE(parts.size() == 2);
  CHECK(parts[1].iov_len == 1);
  cut_to(parts, 3);
  CHECK(parts.size() == 1);
  cut_to(parts, 0);
  CHECK(parts.empty());
}

}  // namespace plumb
