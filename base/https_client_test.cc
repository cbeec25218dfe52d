#include "base/https_client.h"

#include <catch2/catch.hpp>

#include "tests/fakes/https_server.h"

namespace plumb {
namespace {

using namespace std::chrono_literals;

ServedAnswer echo(const ServedRequest& request) {
  return {200, request.method + " " + request.path + " " + request.body, {}};
}

HttpsConfig to(const HttpsServer& server) {
  return {.host = "127.0.0.1", .port = server.port(), .ca_file = server.ca_file()};
}

HttpsClient::Deadline soon() { return std::chrono::steady_clock::now() + 60s; }

std::string refusal(HttpsClient& client, HttpsRequest request, HttpsClient::Deadline deadline) {
  Result<HttpsAnswer> answer = client.ask(request, deadline);
  if (answer) return "";
  CHECK_THAT(answer.error().message, Catch::StartsWith(client.name()));
  CHECK_THAT(answer.error().message, !Catch::Contains("s3cret"));
  return answer.error().message;
}

const HttpsRequest kPost = {.method = "POST",
                            .target = "/a?b=c",
                            .headers = {{"Authorization", basic_authorization("u", "s3cret")}},
                            .body = "s3cret"};

}  // namespace

TEST_CASE("requests go over one connection, which is kept") {
  HttpsServer server(echo);
  HttpsClient client(to(server));
  for (int i = 0; i < 3; ++i) {
    Result<HttpsAnswer> answer = client.ask(kPost, soon());
    INFO((answer ? "" : answer.error().message));
    REQUIRE(answer.ok());
    CHECK(answer->status == 200);
    CHECK(answer->body == "POST /a s3cret");
  }
  CHECK(server.connections() == 1);
}

TEST_CASE("a status is told, and a redirect is an error") {
  HttpsServer server([](const ServedRequest&) { return ServedAnswer{404, "none", {}}; });
  HttpsClient client(to(server));
  CHECK(client.ask(kPost, soon()).value().status == 404);
  server.set_fault([](const ServedRequest&) { return HttpsFault::kRedirect; });
  CHECK_THAT(refusal(client, kPost, soon()), Catch::Contains("it sends elsewhere (HTTP 302)"));
  CHECK(server.connections() == 1);
}

TEST_CASE("only the server asked for, with a certificate that is trusted, is told anything") {
  HttpsServer other(echo);
  SECTION("signed by nobody that is trusted") {
    HttpsServer server(echo);
    HttpsClient client({.host = "127.0.0.1", .port = server.port(), .ca_file = other.ca_file()});
    CHECK_THAT(refusal(client, kPost, soon()), Catch::Contains("its certificate is not trusted"));
    HttpsClient usual({.host = "127.0.0.1", .port = server.port()});
    CHECK_THAT(refusal(usual, kPost, soon()), Catch::Contains("its certificate is not trusted"));
    CHECK(server.log().empty());
  }
  SECTION("of another host") {
    HttpsServer server(echo, "array.example");
    HttpsClient client(to(server));
    CHECK_THAT(refusal(client, kPost, soon()), Catch::Contains("its certificate is not trusted"));
    CHECK(server.log().empty());
  }
  SECTION("a file that holds no certificate") {
    HttpsClient client({.host = "127.0.0.1", .port = other.port(), .ca_file = "/dev/null"});
    CHECK_FALSE(client.ask(kPost, soon()).ok());
    CHECK(other.log().empty());
  }
}

TEST_CASE("nothing waits past its deadline") {
  HttpsServer server(echo);
  HttpsClient client(to(server));
  server.set_fault([](const ServedRequest&) { return HttpsFault::kSilent; });
  const auto deadline = std::chrono::steady_clock::now() + 200ms;
  CHECK_THAT(refusal(client, kPost, deadline), Catch::Contains("no answer: it took too long"));
  HttpsRequest get = kPost;
  get.method = "GET";
  CHECK_FALSE(client.ask(get, std::chrono::steady_clock::now() - 1s).ok());
}

TEST_CASE("an answer without an end is not kept in memory") {
  HttpsServer server(echo);
  HttpsConfig config = to(server);
  config.answer_limit_bytes = 1U << 20U;
  HttpsClient client(std::move(config));
  server.set_fault([](const ServedRequest&) { return HttpsFault::kGiant; });
  CHECK_THAT(refusal(client, kPost, soon()), Catch::Contains("its answer is too long"));
}

TEST_CASE("what may have been done is not done again") {
  HttpsServer server(echo);
  HttpsClient client(to(server));
  REQUIRE(client.ask(kPost, soon()).ok());
  const auto fault =
      GENERATE(HttpsFault::kDropBefore, HttpsFault::kDropAfter, HttpsFault::kDropInside);
  int faults = 1;
  server.set_fault([&](const ServedRequest&) { return faults-- > 0 ? fault : HttpsFault::kNone; });
  SECTION("a POST") {
    CHECK_FALSE(refusal(client, kPost, soon()).empty());
    CHECK(server.log().size() == 2);
    CHECK(client.ask(kPost, soon()).ok());
  }
  SECTION("a GET is asked again") {
    HttpsRequest get = kPost;
    get.method = "GET";
    CHECK((fault == HttpsFault::kDropInside || client.ask(get, soon()).ok()));
  }
}

TEST_CASE("a connection that the server has ended meanwhile is made anew") {
  HttpsServer server(echo);
  HttpsClient client(to(server));
  REQUIRE(client.ask(kPost, soon()).ok());
  server.close_kept();
  CHECK(client.ask(kPost, soon()).ok());
  CHECK(server.connections() == 2);
  CHECK(server.log().size() == 2);
}

TEST_CASE("a server that is not there is told by its name") {
  uint16_t port = 0;
  {
    const HttpsServer server(echo);
    port = server.port();
  }
  HttpsClient client({.host = "127.0.0.1", .port = port});
  CHECK_THAT(refusal(client, kPost, soon()), Catch::Contains("it cannot be reached"));
}

TEST_CASE("what goes into a target or a header is encoded") {
  CHECK(percent_encoded("a-z.A_Z~09") == "a-z.A_Z~09");
  CHECK(percent_encoded("/vol/a b&c=%?\xc3\xbc") == "%2Fvol%2Fa%20b%26c%3D%25%3F%C3%BC");
  CHECK(basic_authorization("user", "pass word") == "Basic dXNlcjpwYXNzIHdvcmQ=");
}

}  // namespace plumb
