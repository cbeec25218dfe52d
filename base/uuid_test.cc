#include "base/uuid.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("a UUID is read in either case and written in lower case") {
  CHECK(Uuid::parse("3F2504e0-4F89-41d3-9a0c-0305e82c3301").value().text() ==
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301");
  CHECK(Uuid().text() == "00000000-0000-0000-0000-000000000000");
}

TEST_CASE("what is no UUID is refused as a usage error") {
  const char* text =
      GENERATE("", "3f2504e0", "3f2504e04f8941d39a0c0305e82c3301",
               "3f2504e0-4f89-41d3-9a0c_0305e82c3301", "3f2504e0-4f89-41d3-9a0c-0305e82c330",
               "3f2504e0-4f89-41d3-9a0c-0305e82c33011", "3f2504e0-4f89-41d3-9a0c-0305e82c330g",
               "3f2504e0-4f89-41d3-9a0c-0305e82c33-1", "{3f2504e0-4f89-41d3-9a0c-0305e82c3301}");
  CAPTURE(text);
  Result<Uuid> uuid = Uuid::parse(text);
  REQUIRE_FALSE(uuid.ok());
  CHECK(uuid.error().kind == ErrorKind::kUsage);
  CHECK(uuid.error().message.find(text) != std::string::npos);
}

TEST_CASE("random UUIDs are of version 4 and differ") {
  const Uuid one = Uuid::random().value();
  CHECK(one.text()[14] == '4');
  CHECK(std::string("89ab").find(one.text()[19]) != std::string::npos);
  CHECK_FALSE(one == Uuid::random().value());
}

// RFC 4122, appendix C's name space for DNS, and what other programs make of the name.
TEST_CASE("a UUID derived from a name is the one of version 5") {
  const Uuid dns = Uuid::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8").value();
  CHECK(Uuid::derived(dns, "www.example.com").text() == "2ed6657d-e927-568b-95e1-2665a8aea6a2");
  CHECK_FALSE(Uuid::derived(dns, "a") == Uuid::derived(dns, "b"));
}

TEST_CASE("as a GUID, the first three fields are little-endian") {
  const Uuid uuid = Uuid::parse("00112233-4455-6677-8899-aabbccddeeff").value();
  const unsigned char want[] = {0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
  const Uuid::Bytes guid = uuid.guid_bytes();
  for (size_t i = 0; i < Uuid::kSize; ++i) CHECK(guid[i] == std::byte{want[i]});
}

}  // namespace plumb
