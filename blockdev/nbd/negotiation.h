// What a client and the server agree on before they transmit: the export, structured replies,
// metadata contexts, TLS. Pure: takes options, gives replies, and says what comes next.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "blockdev/nbd/protocol.h"

namespace plumb::nbd {

// An export as negotiation knows it.
struct Offer {
  ExportFacts facts;
  std::vector<std::string> contexts;  // an id is an index of these: "base:allocation"
};

class Negotiation {
 public:
  // A client needs a dozen; nobody gets more than that many answers without a choice.
  static constexpr size_t kMaxOptions = 256;
  // Of one kOptSetMetaContext.
  static constexpr size_t kMaxContexts = 16;

  struct Config {
    std::vector<Offer> offers;
    bool tls = false;  // nothing goes on without it (the protocol's FORCEDTLS)
  };
  explicit Negotiation(Config config) : config_(std::move(config)) {}

  enum class Next : uint8_t {
    kMore,          // another option
    kStartTls,      // after the reply, all is TLS
    kTransmission,  // after the reply, requests
    kEnd,           // after the reply, the client goes
    kCutOff,        // there is no reply, and nothing more to say
  };
  struct Step {
    Bytes reply;
    Next next = Next::kMore;
    std::string why;  // of kCutOff
  };

  // The client's answer to greeting(), before any option; as parse_client_flags() has it.
  void set_client_flags(uint32_t flags);
  // `data`: at most kMaxOptionBytes.
  Step take(uint32_t option, std::span<const std::byte> data);

  // After Next::kTransmission: an index of Config::offers.
  size_t chosen() const { return chosen_; }
  const Offer& offer() const { return config_.offers[chosen_]; }
  const Agreed& agreed() const { return agreed_; }

 private:
  Step take_export_name(std::span<const std::byte> data);
  Step list(std::span<const std::byte> data) const;
  Step start_tls(std::span<const std::byte> data);
  Step take_info(uint32_t option, std::span<const std::byte> data);
  Step take_structured(std::span<const std::byte> data);
  Step take_meta_context(uint32_t option, std::span<const std::byte> data);
  // "" is the only one there is.
  const Offer* find(const std::string& name) const;
  Step choose(const Offer& offer, Bytes reply);
  ExportFacts facts_of(const Offer& offer) const;

  Config config_;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  bool tls_started_ = false;
  size_t options_ = 0;
  size_t chosen_ = 0;
  Agreed agreed_;
  const Offer* contexts_of_ = nullptr;  // whose agreed_.contexts are
};

}  // namespace plumb::nbd
