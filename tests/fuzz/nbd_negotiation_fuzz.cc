// A whole negotiation, option after option: it comes to its end, agrees on nothing that was not
// offered, and tells nothing before TLS where that is wanted.
//
// The first byte says what kind of server it is; each option is its number, two bytes of length,
// and its data.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/endian.h"
#include "blockdev/nbd/negotiation.h"

namespace {

using namespace plumb::nbd;

std::vector<Offer> offers(bool several) {
  std::vector<Offer> all;
  all.push_back({{.name = "a", .size_bytes = 4096, .flags = kHasFlags, .max_block_bytes = 4096},
                 {"base:allocation", "qemu:dirty-bitmap:x"}});
  if (several) {
    all.push_back({{.name = "b/c", .size_bytes = 512, .flags = kHasFlags, .max_block_bytes = 4096},
                   {"base:allocation"}});
  }
  return all;
}

// What is sent in the clear where TLS is wanted: errors, and the end.
void check_secret(const Bytes& reply) {
  constexpr size_t kHeadBytes = 20;
  ENSURE(reply.size() >= kHeadBytes);
  const uint32_t type = plumb::load_be<uint32_t>(reply.data() + 12);
  ENSURE(type == kRepAck || type == kRepErrTlsRequired || type == kRepErrInvalid);
  ENSURE(reply.size() == kHeadBytes + plumb::load_be<uint32_t>(reply.data() + 16));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const bool tls = (data[0] & 1U) != 0;
  const bool several = (data[0] & 2U) != 0;
  Negotiation negotiation({.offers = offers(several), .tls = tls});
  negotiation.set_client_flags(data[0] >> 2U & 3U);
  auto rest = std::as_bytes(std::span(data, size)).subspan(1);
  bool secret = tls;
  size_t options = 0;
  while (rest.size() >= 3) {
    const auto number = static_cast<uint32_t>(rest[0]);
    const size_t length = std::min<size_t>(
        {plumb::load_be<uint16_t>(rest.data() + 1), rest.size() - 3, kMaxOptionBytes});
    const Negotiation::Step step = negotiation.take(number, rest.subspan(3, length));
    rest = rest.subspan(3 + length);
    ENSURE(++options <= Negotiation::kMaxOptions + 1);
    if (step.next == Negotiation::Next::kCutOff) {
      ENSURE(!step.why.empty() && step.reply.empty());
      return 0;
    }
    if (secret) check_secret(step.reply);
    if (step.next == Negotiation::Next::kStartTls) secret = false;
    if (step.next == Negotiation::Next::kEnd) return 0;
    if (step.next != Negotiation::Next::kTransmission) continue;
    ENSURE(!secret && negotiation.chosen() < (several ? 2U : 1U));
    const Agreed& agreed = negotiation.agreed();
    ENSURE(agreed.structured || agreed.contexts.empty());
    for (const uint32_t id : agreed.contexts) ENSURE(id < negotiation.offer().contexts.size());
    return 0;
  }
  return 0;
}
