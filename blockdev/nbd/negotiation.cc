#include "blockdev/nbd/negotiation.h"

#include <algorithm>
#include <utility>

namespace plumb::nbd {
namespace {

using Step = Negotiation::Step;

Step cut_off(std::string why) {
  return {.reply = {}, .next = Negotiation::Next::kCutOff, .why = std::move(why)};
}

Step answer(uint32_t option, uint32_t type, std::string_view text = {}) {
  return {.reply = option_reply(option, type, text), .next = Negotiation::Next::kMore, .why = {}};
}

void append(Bytes& to, const Bytes& more) { to.insert(to.end(), more.begin(), more.end()); }

// Whether a query selects a context. In a list, "qemu:" and "qemu:dirty-bitmap:" stand for all that
// begin so.
bool selects(const std::string& query, const std::string& context, bool listing) {
  return query == context || (listing && query.ends_with(':') && context.starts_with(query));
}

}  // namespace

void Negotiation::set_client_flags(uint32_t flags) {
  fixed_newstyle_ = (flags & kFixedNewstyle) != 0;
  no_zeroes_ = (flags & kNoZeroes) != 0;
}

const Offer* Negotiation::find(const std::string& name) const {
  if (name.empty() && config_.offers.size() == 1) return &config_.offers.front();
  const auto found = std::ranges::find_if(
      config_.offers, [&name](const Offer& offer) { return offer.facts.name == name; });
  return found == config_.offers.end() ? nullptr : &*found;
}

// An export's flags depend on what was agreed on.
ExportFacts Negotiation::facts_of(const Offer& offer) const {
  ExportFacts facts = offer.facts;
  if (agreed_.structured) facts.flags |= kSendDf;
  return facts;
}

Step Negotiation::choose(const Offer& offer, Bytes reply) {
  chosen_ = static_cast<size_t>(&offer - config_.offers.data());
  if (contexts_of_ != &offer) agreed_.contexts.clear();
  return {.reply = std::move(reply), .next = Next::kTransmission, .why = {}};
}

Step Negotiation::take(uint32_t option, std::span<const std::byte> data) {
  if (++options_ > kMaxOptions) return cut_off("it negotiates without end");
  const bool plain = config_.tls && !tls_started_;
  if (option == kOptExportName) return take_export_name(data);
  if (!fixed_newstyle_) return cut_off("it uses options that it did not say it knows");
  if (option == kOptAbort) {
    return {.reply = option_reply(option, kRepAck), .next = Next::kEnd, .why = {}};
  }
  if (option == kOptStartTls) return start_tls(data);
  if (plain) return answer(option, kRepErrTlsRequired, "this server wants TLS");
  switch (option) {
    case kOptList:
      return list(data);
    case kOptInfo:
    case kOptGo:
      return take_info(option, data);
    case kOptStructuredReply:
      return take_structured(data);
    case kOptListMetaContext:
    case kOptSetMetaContext:
      return take_meta_context(option, data);
    default:
      return answer(option, kRepErrUnsupported);
  }
}

// There is no way to refuse it but to go.
Step Negotiation::take_export_name(std::span<const std::byte> data) {
  if (config_.tls && !tls_started_) return cut_off("it asks for an export without TLS");
  const Offer* offer = find({reinterpret_cast<const char*>(data.data()), data.size()});
  if (offer == nullptr) return cut_off("it asks for an export that there is not");
  return choose(*offer, export_name_reply(facts_of(*offer), no_zeroes_));
}

Step Negotiation::list(std::span<const std::byte> data) const {
  if (!data.empty()) return answer(kOptList, kRepErrInvalid, "a list takes no data");
  Step step;
  for (const Offer& offer : config_.offers) append(step.reply, server_reply(offer.facts.name));
  append(step.reply, option_reply(kOptList, kRepAck));
  return step;
}

Step Negotiation::start_tls(std::span<const std::byte> data) {
  if (!config_.tls) return answer(kOptStartTls, kRepErrPolicy, "this server has no key for TLS");
  if (tls_started_) return answer(kOptStartTls, kRepErrInvalid, "this is TLS already");
  if (!data.empty()) return answer(kOptStartTls, kRepErrInvalid, "STARTTLS takes no data");
  tls_started_ = true;  // nothing was agreed on before
  return {.reply = option_reply(kOptStartTls, kRepAck), .next = Next::kStartTls, .why = {}};
}

Step Negotiation::take_info(uint32_t option, std::span<const std::byte> data) {
  auto name = parse_info_query(data);
  if (!name) return answer(option, kRepErrInvalid, name.error().message);
  const Offer* offer = find(*name);
  if (offer == nullptr) return answer(option, kRepErrUnknown, "there is no such export");
  Bytes reply = info_replies(option, facts_of(*offer));
  if (option == kOptGo) return choose(*offer, std::move(reply));
  return {.reply = std::move(reply), .next = Next::kMore, .why = {}};
}

Step Negotiation::take_structured(std::span<const std::byte> data) {
  if (!data.empty()) {
    return answer(kOptStructuredReply, kRepErrInvalid, "structured replies take no data");
  }
  agreed_.structured = true;
  return answer(kOptStructuredReply, kRepAck);
}

Step Negotiation::take_meta_context(uint32_t option, std::span<const std::byte> data) {
  const bool listing = option == kOptListMetaContext;
  if (!listing) {  // what was set before is gone, whatever comes of this
    agreed_.contexts.clear();
    contexts_of_ = nullptr;
  }
  if (!agreed_.structured) {
    return answer(option, kRepErrInvalid, "metadata needs structured replies");
  }
  auto query = parse_meta_query(data);
  if (!query) return answer(option, kRepErrInvalid, query.error().message);
  const Offer* offer = find(query->export_name);
  if (offer == nullptr) return answer(option, kRepErrUnknown, "there is no such export");
  const std::vector<std::string>& queries = query->queries;
  Step step;
  std::vector<uint32_t> chosen;
  for (uint32_t id = 0; id < offer->contexts.size(); ++id) {
    const std::string& context = offer->contexts[id];
    const bool wanted =
        (listing && queries.empty()) || std::ranges::any_of(queries, [&](const auto& one) {
          return selects(one, context, listing);
        });
    if (!wanted || (!listing && chosen.size() == kMaxContexts)) continue;
    chosen.push_back(id);
    append(step.reply, meta_context_reply(option, listing ? 0 : id, context));
  }
  append(step.reply, option_reply(option, kRepAck));
  if (listing) return step;
  agreed_.contexts = std::move(chosen);
  contexts_of_ = offer;
  return step;
}

}  // namespace plumb::nbd
