#include "base/tcp_socket.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("an address of numbers is read, and written as it was") {
  for (const std::string text : {"127.0.0.1:10809", "0.0.0.0:0", "192.168.1.2:65535", "[::1]:10809",
                                 "[::]:1", "[fe80::1]:5"}) {
    CHECK(parse_tcp_address(text).value().text() == text);
  }
}

TEST_CASE("what is no address is refused") {
  for (const std::string& text :
       {std::string(), std::string("127.0.0.1"), std::string("localhost:10809"),
        std::string("127.0.0.1:"), std::string("127.0.0.1:65536"), std::string("127.0.0.1:-1"),
        std::string("127.0.0.1:1x"), std::string("127.1:1"), std::string("::1:10809"),
        std::string("[::1]"), std::string("[::1:10809"), std::string("[]:1"), std::string(":10809"),
        std::string("127.0.0.1\0:1", 12), std::string("[127.0.0.1]:1")}) {
    CAPTURE(text);
    Result<TcpAddress> address = parse_tcp_address(text);
    REQUIRE_FALSE(address.ok());
    CHECK(address.error().kind == ErrorKind::kUsage);
  }
}

TEST_CASE("only this host reaches a loopback address") {
  for (const char* text : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1"}) {
    CHECK(parse_tcp_address(text).value().is_loopback());
  }
  for (const char* text : {"0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1", "[::]:1", "[fe80::1]:1",
                           "[::ffff:127.0.0.1]:1"}) {
    CHECK_FALSE(parse_tcp_address(text).value().is_loopback());
  }
}

TEST_CASE("a listener has the port that it is given, and nobody else") {
  const UniqueFd first = listen_tcp(parse_tcp_address("127.0.0.1:0").value(), 1).value();
  const TcpAddress address = address_of_listener(first.get()).value();
  CHECK_FALSE(address.text().ends_with(":0"));
  Result<UniqueFd> second = listen_tcp(address, 1);
  REQUIRE_FALSE(second.ok());
  CHECK_THAT(second.error().message, Catch::Contains(address.text()));
}

}  // namespace plumb
