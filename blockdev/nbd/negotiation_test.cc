#include "blockdev/nbd/negotiation.h"

#include <catch2/catch.hpp>

#include "base/endian.h"
#include "tests/fakes/nbd_client.h"

namespace plumb::nbd {
namespace {

using Next = Negotiation::Next;
using Client = NbdClient;

Offer offer(const std::string& name, std::vector<std::string> contexts = {"base:allocation"}) {
  return {{.name = name, .size_bytes = 4096, .max_block_bytes = 4096}, std::move(contexts)};
}

Bytes text(const std::string& value) {
  Bytes bytes;
  for (const char letter : value) bytes.push_back(static_cast<std::byte>(letter));
  return bytes;
}

// The replies in a step: type, and data.
std::vector<std::pair<uint32_t, std::string>> replies(const Negotiation::Step& step) {
  std::vector<std::pair<uint32_t, std::string>> all;
  for (size_t at = 0; at < step.reply.size();) {
    const std::byte* head = step.reply.data() + at;
    const uint32_t length = load_be<uint32_t>(head + 16);
    all.emplace_back(load_be<uint32_t>(head + 12),
                     std::string(reinterpret_cast<const char*>(head) + 20, length));
    at += 20 + length;
  }
  return all;
}

uint32_t last(const Negotiation::Step& step) {
  REQUIRE_FALSE(step.reply.empty());
  return replies(step).back().first;
}

Negotiation fixed(std::vector<Offer> offers, bool tls = false) {
  Negotiation negotiation({.offers = std::move(offers), .tls = tls});
  negotiation.set_client_flags(kFixedNewstyle | kNoZeroes);
  return negotiation;
}

}  // namespace

TEST_CASE("all exports are listed, and one is chosen by its name") {
  Negotiation negotiation = fixed({offer("a"), offer("b")});
  const auto listed = replies(negotiation.take(kOptList, {}));
  REQUIRE(listed.size() == 3);
  CHECK(listed[0].second == std::string("\0\0\0\1a", 5));
  CHECK(listed[1].second == std::string("\0\0\0\1b", 5));
  CHECK(listed[2].first == kRepAck);
  CHECK(last(negotiation.take(kOptInfo, Client::query("c"))) == kRepErrUnknown);
  CHECK(last(negotiation.take(kOptGo, Client::query(""))) == kRepErrUnknown);  // which of them?
  CHECK(negotiation.take(kOptInfo, Client::query("b")).next == Next::kMore);
  CHECK(negotiation.take(kOptGo, Client::query("b")).next == Next::kTransmission);
  CHECK(negotiation.chosen() == 1);
}

TEST_CASE("the only export needs no name") {
  for (const std::string name : {"", "a"}) {
    Negotiation negotiation = fixed({offer("a")});
    CHECK(negotiation.take(kOptExportName, text(name)).next == Next::kTransmission);
  }
  Negotiation other = fixed({offer("a")});
  CHECK(other.take(kOptExportName, text("b")).next == Next::kCutOff);
}

TEST_CASE("the flag for unfragmented reads goes with structured replies") {
  for (const bool structured : {false, true}) {
    Negotiation negotiation = fixed({offer("a")});
    if (structured) CHECK(last(negotiation.take(kOptStructuredReply, {})) == kRepAck);
    const auto told = replies(negotiation.take(kOptGo, Client::query("a")));
    const uint16_t flags = load_be<uint16_t>(told.front().second.data() + 10);
    CHECK(((flags & kSendDf) != 0) == structured);
    CHECK(negotiation.agreed().structured == structured);
  }
}

TEST_CASE("metadata contexts are listed by their beginning, and set by their names") {
  const std::vector<std::string> contexts = {"base:allocation", "qemu:dirty-bitmap:x",
                                             "qemu:dirty-bitmap:y"};
  Negotiation negotiation = fixed({offer("a", contexts)});
  CHECK(last(negotiation.take(kOptListMetaContext, Client::meta_query("a", {}))) ==
        kRepErrInvalid);  // not before structured replies
  negotiation.take(kOptStructuredReply, {});
  const auto list = [&](const std::vector<std::string>& queries) {
    return replies(negotiation.take(kOptListMetaContext, Client::meta_query("a", queries))).size() -
           1;
  };
  CHECK(list({}) == 3);
  CHECK(list({"base:"}) == 1);
  CHECK(list({"qemu:"}) == 2);
  CHECK(list({"qemu:dirty-bitmap:"}) == 2);
  CHECK(list({"qemu:dirty-bitmap:y", "other:thing"}) == 1);
  CHECK(list({"qemu:dirty"}) == 0);
  const auto set = [&](const std::vector<std::string>& queries) {
    return replies(negotiation.take(kOptSetMetaContext, Client::meta_query("a", queries)));
  };
  const auto chosen = set({"qemu:dirty-bitmap:y", "base:allocation", "x-other:thing"});
  REQUIRE(chosen.size() == 3);
  CHECK(chosen[0].second == std::string("\0\0\0\0base:allocation", 19));
  CHECK(chosen[1].second == std::string("\0\0\0\2qemu:dirty-bitmap:y", 23));
  CHECK(negotiation.agreed().contexts == std::vector<uint32_t>{0, 2});
  CHECK(set({"base:"}).size() == 1);
  CHECK(set({}).size() == 1);
  CHECK(negotiation.agreed().contexts.empty());
}

TEST_CASE("metadata contexts are of the export that they were set for, and the last ones set") {
  Negotiation negotiation = fixed({offer("a"), offer("b")});
  negotiation.take(kOptStructuredReply, {});
  const Bytes query = Client::meta_query("a", {"base:allocation"});
  negotiation.take(kOptSetMetaContext, query);
  SECTION("the same export") {
    negotiation.take(kOptGo, Client::query("a"));
    CHECK(negotiation.agreed().contexts.size() == 1);
  }
  SECTION("another export") {
    negotiation.take(kOptGo, Client::query("b"));
    CHECK(negotiation.agreed().contexts.empty());
  }
  SECTION("a failure takes them away") {
    CHECK(last(negotiation.take(kOptSetMetaContext, Client::meta_query("c", {}))) ==
          kRepErrUnknown);
    negotiation.take(kOptGo, Client::query("a"));
    CHECK(negotiation.agreed().contexts.empty());
  }
}

TEST_CASE("where TLS is wanted nothing is told, or agreed on, before it") {
  Negotiation negotiation = fixed({offer("a")}, true);
  for (const uint32_t option :
       {kOptList, kOptInfo, kOptGo, kOptStructuredReply, kOptListMetaContext, kOptSetMetaContext}) {
    CHECK(last(negotiation.take(option, Client::query("a"))) == kRepErrTlsRequired);
  }
  CHECK(last(negotiation.take(0x1234, {})) == kRepErrTlsRequired);
  CHECK(last(negotiation.take(kOptStartTls, Bytes(1))) == kRepErrInvalid);
  CHECK(negotiation.take(kOptStartTls, {}).next == Next::kStartTls);
  CHECK_FALSE(negotiation.agreed().structured);
  CHECK(last(negotiation.take(kOptStartTls, {})) == kRepErrInvalid);
  CHECK(negotiation.take(kOptGo, Client::query("a")).next == Next::kTransmission);

  Negotiation named = fixed({offer("a")}, true);
  CHECK(named.take(kOptExportName, text("a")).next == Next::kCutOff);
  Negotiation leaves = fixed({offer("a")}, true);
  CHECK(leaves.take(kOptAbort, {}).next == Next::kEnd);
  Negotiation without = fixed({offer("a")});
  CHECK(last(without.take(kOptStartTls, {})) == kRepErrPolicy);
}

TEST_CASE("who does not say that it knows options has but one") {
  Negotiation old({.offers = {offer("a")}, .tls = false});
  old.set_client_flags(0);
  CHECK(old.take(kOptList, {}).next == Next::kCutOff);
  Negotiation named({.offers = {offer("a")}, .tls = false});
  named.set_client_flags(0);
  const Negotiation::Step step = named.take(kOptExportName, {});
  CHECK(step.next == Next::kTransmission);
  CHECK(step.reply.size() == 10 + 124);
}

TEST_CASE("options that make no sense are told so, and others come after them") {
  Negotiation negotiation = fixed({offer("a")});
  CHECK(last(negotiation.take(kOptList, Bytes(1))) == kRepErrInvalid);
  CHECK(last(negotiation.take(kOptStructuredReply, Bytes(1))) == kRepErrInvalid);
  CHECK_FALSE(negotiation.agreed().structured);
  CHECK(last(negotiation.take(kOptGo, Bytes(3))) == kRepErrInvalid);
  negotiation.take(kOptStructuredReply, {});
  CHECK(last(negotiation.take(kOptSetMetaContext, Bytes(3))) == kRepErrInvalid);
  CHECK(last(negotiation.take(11, {})) == kRepErrUnsupported);  // extended headers
  CHECK(negotiation.take(kOptGo, Client::query("a")).next == Next::kTransmission);
}

TEST_CASE("a client that negotiates without end is cut off") {
  Negotiation negotiation = fixed({offer("a")});
  for (size_t i = 0; i < Negotiation::kMaxOptions; ++i) {
    REQUIRE(negotiation.take(kOptList, {}).next == Next::kMore);
  }
  CHECK(negotiation.take(kOptList, {}).next == Next::kCutOff);
}

}  // namespace plumb::nbd
