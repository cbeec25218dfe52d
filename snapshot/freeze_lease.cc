#include "snapshot/freeze_lease.h"

#include <boost/asio/post.hpp>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "snapshot/lease_messages.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

int64_t milliseconds_between(FreezeLease::Clock::time_point start,
                             FreezeLease::Clock::time_point end) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(end - start).count();
}

int64_t milliseconds_since(FreezeLease::Clock::time_point start) {
  return milliseconds_between(start, FreezeLease::Clock::now());
}

int64_t seconds_since(FreezeLease::Clock::time_point start) {
  return milliseconds_since(start) / 1000;
}

// A time a request asks for, which it must.
Result<FreezeLease::Milliseconds> time_in(const Json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end() || !found->is_number_unsigned() ||
      found->get<uint64_t>() > static_cast<uint64_t>(FreezeLease::kMaxLimit.count())) {
    return usage_error("a request needs \"{}\", {} at most", key, FreezeLease::kMaxLimit.count());
  }
  return FreezeLease::Milliseconds(found->get<int64_t>());
}

Result<std::vector<std::string>> mountpoints_in(const Json& request) {
  std::vector<std::string> all;
  for (const Json& one : request.value("mountpoints", Json::array())) {
    if (!one.is_string()) return usage_error("a mount point is not a text");
    all.push_back(one.get<std::string>());
  }
  return all;
}

std::string text_in(const Json& request, const char* key) {
  const auto found = request.find(key);
  return found != request.end() && found->is_string() ? found->get<std::string>() : "";
}

Result<std::vector<DiskHolder::Overlay>> overlays_in(const Json& request,
                                                     std::vector<UniqueFd> fds) {
  const Json listed = request.value("overlays", Json());
  std::vector<DiskHolder::Overlay> all;
  if (!listed.is_array() || listed.empty() || listed.size() != fds.size()) {
    return usage_error("overlays come with a descriptor for each");
  }
  for (size_t i = 0; i < fds.size(); ++i) {
    if (!listed[i].is_object()) return usage_error("an overlay is not an object");
    all.push_back({text_in(listed[i], "disk"), std::move(fds[i]), text_in(listed[i], "label")});
  }
  return all;
}

}  // namespace

FreezeLease::FreezeLease(Config config)
    : config_(std::move(config)),
      limit_timer_(*config_.context),
      thaw_timer_(*config_.context),
      retry_timer_(*config_.context) {
  Result<std::string> left = config_.journal->read();
  if (left && left->empty()) return;
  config_.event(
      fmt::format("the guest may have been left frozen ({}); it is thawed when it answers",
                  left ? *left : left.error().message));
  start_thaw();
}

FreezeLease::~FreezeLease() {
  alive_.reset();
  if (thread_) thread_->join();
}

template <typename Work, typename Then>
void FreezeLease::on_freezer(Work work, Then then) {
  if (!thread_) thread_ = std::make_unique<boost::asio::thread_pool>(1);
  boost::asio::post(*thread_, [this, alive = std::weak_ptr(alive_), work = std::move(work),
                               then = std::move(then)]() mutable {
    auto result = std::make_shared<decltype(work())>(work());
    boost::asio::post(*config_.context,
                      [alive = std::move(alive), result, then = std::move(then)]() mutable {
                        if (alive.lock()) then(std::move(*result));
                      });
  });
}

void FreezeLease::request(JsonServer::Id id, const Json& request, std::vector<UniqueFd> fds,
                          JsonServer::Reply reply) {
  const std::string what = text_in(request, "do");
  if (owned() && owner_id_ != id) {
    return reply(make_error(ErrorKind::kLocked, "{} has the guest's disks for {} s now; try later",
                            owner_, seconds_since(state_at_)));
  }
  if (what == "begin") {
    if (state_ != State::kIdle) return reply(not_now("begun"));
    owner_id_ = id;
    return begin(request, reply);
  }
  if (!owned()) return reply(usage_error("a lease starts with \"begin\""));
  if (what == "release") return release(reply);
  if (what == "keep" || what == "let-go") {
    return change_overlays(what, request, std::move(fds), std::move(reply));
  }
  Result<Milliseconds> time = time_in(request, what == "hold" ? "limit_ms" : "timeout_ms");
  if (!time) return reply(std::move(time).error());
  if (what == "guest") return ask_guest(*time, std::move(reply));
  if (what == "hold") return hold(*time, std::move(reply));
  if (what == "thaw") return thaw(*time, std::move(reply));
  if (what != "freeze") return reply(usage_error("a lease knows no '{}'", what));
  Result<Milliseconds> limit = time_in(request, "limit_ms");
  Result<std::vector<std::string>> mountpoints = mountpoints_in(request);
  if (!limit) return reply(std::move(limit).error());
  if (!mountpoints) return reply(std::move(mountpoints).error());
  freeze(std::move(mountpoints).value(), *time, *limit, std::move(reply));
}

Error FreezeLease::not_now(const char* what) const {
  if (!ended_.empty()) {
    Error error = failed("{}", ended_);
    error.os_errno = ETIME;
    return error;
  }
  if (state_ == State::kThawing) {
    Error error = failed("the guest cannot be {} now: it does not thaw yet{}{}", what,
                         thaw_error_.empty() ? "" : ": ", thaw_error_);
    error.os_errno = EBUSY;
    return error;
  }
  return usage_error("the guest cannot be {} now", what);
}

void FreezeLease::begin(const Json& request, const JsonServer::Reply& reply) {
  owner_ = text_in(request, "owner");
  state_ = State::kOpen;
  state_at_ = Clock::now();
  ended_.clear();
  reply(config_.describe());
}

void FreezeLease::ask_guest(Milliseconds timeout, JsonServer::Reply reply) {
  if (state_ != State::kOpen) return reply(not_now("asked"));
  state_ = State::kAsking;
  on_freezer(
      [freezer = config_.freezer, timeout] { return freezer->facts(timeout); },
      [this, reply = std::move(reply)](Result<GuestFacts> facts) {
        state_ = State::kOpen;
        if (!owned()) return end();
        reply(facts ? Result<Json>(facts_to_json(*facts)) : Result<Json>(std::move(facts).error()));
      });
}

void FreezeLease::freeze(std::vector<std::string> mountpoints, Milliseconds timeout,
                         Milliseconds limit, JsonServer::Reply reply) {
  if (state_ != State::kOpen || !ended_.empty()) return reply(not_now("frozen"));
  // First the journal, then the freeze: what is frozen is known to be, whoever dies.
  if (Result<> written = config_.journal->write("by " + owner_); !written) {
    return reply(std::move(written).error());
  }
  state_ = State::kFreezing;
  state_at_ = Clock::now();
  on_freezer([freezer = config_.freezer, mountpoints = std::move(mountpoints),
              timeout] { return freezer->freeze(mountpoints, timeout); },
             [this, limit, reply = std::move(reply)](Result<unsigned> frozen) {
               on_frozen(std::move(frozen), limit, reply);
             });
}

void FreezeLease::on_frozen(Result<unsigned> frozen, Milliseconds limit,
                            const JsonServer::Reply& reply) {
  const int64_t freeze_ms = milliseconds_since(state_at_);
  frozen_at_ = state_at_ = Clock::now();
  state_ = State::kFrozen;
  // Also after a refusal, which may come from an agent that has lost count.
  if (!frozen || !owned()) start_thaw();
  if (!frozen) return reply(std::move(frozen).error());
  if (owned()) set_limit(limit, "the guest was frozen");
  reply(Json{{"frozen", *frozen}, {"freeze_ms", freeze_ms}});
}

void FreezeLease::hold(Milliseconds limit, JsonServer::Reply reply) {
  if (held_ || !ended_.empty()) return reply(not_now("held"));
  held_ = true;
  config_.disks->hold(limit, [this, limit, reply = std::move(reply)](Result<> done) {
    held_ = done.ok();
    if (!done) return reply(std::move(done).error());
    held_at_ = Clock::now();
    set_limit(limit, "its disks were held");
    reply(Json::object());
  });
}

// The answer is the holder's, unless the hold has ended meanwhile: then the disks were changed, but
// what the caller has is of no instant.
void FreezeLease::change_overlays(const std::string& what, const Json& request,
                                  std::vector<UniqueFd> fds, JsonServer::Reply reply) {
  if (!held_ || !ended_.empty()) return reply(not_now("changed"));
  auto done = [this, alive = std::weak_ptr(alive_), reply = std::move(reply)](Result<> result) {
    if (!alive.lock()) return;
    if (result && !held_) result = not_now("changed");
    reply(result ? Result<Json>(Json::object()) : Result<Json>(std::move(result).error()));
  };
  if (what == "let-go") return config_.disks->let_go(text_in(request, "uuid"), std::move(done));
  Result<std::vector<DiskHolder::Overlay>> overlays = overlays_in(request, std::move(fds));
  if (!overlays) return done(std::move(overlays).error());
  config_.disks->keep(std::move(overlays).value(), std::move(done));
}

void FreezeLease::release(const JsonServer::Reply& reply) {
  if (!held_) return reply(not_now("released"));
  const auto held = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - held_at_);
  let_disks_go();
  reply(Json{{"held_us", held.count()}});
}

void FreezeLease::let_disks_go() {
  if (std::exchange(held_, false)) config_.disks->release();
}

// Of both limits the one that comes first counts.
void FreezeLease::set_limit(Milliseconds limit, const char* what) {
  const auto at = Clock::now() + limit;
  const bool armed = limit_timer_.expiry() > Clock::now();
  if (armed && limit_timer_.expiry() <= at) return;
  limit_timer_.expires_at(at);
  limit_timer_.async_wait([this, what](const boost::system::error_code& error) {
    if (!error) limit_passed(what);
  });
}

void FreezeLease::limit_passed(const char* what) {
  if (!held_ && state_ != State::kFrozen) return;
  ended_ = fmt::format("{} for longer than was agreed, so {} has lost hold of it", what, owner_);
  config_.event(ended_);
  let_disks_go();
  if (state_ == State::kFrozen) start_thaw();
}

void FreezeLease::thaw(Milliseconds timeout, JsonServer::Reply reply) {
  const bool thawing = state_ == State::kThawing && !thaw_reply_;
  if (state_ != State::kFrozen && !thawing) return reply(not_now("thawed"));
  thaw_reply_ = std::move(reply);
  thaw_timer_.expires_after(timeout);
  thaw_timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || !thaw_reply_) return;
    Error late = failed("the guest is still frozen, or does not say that it is not: {}",
                        thaw_error_.empty() ? "it has not answered" : thaw_error_);
    late.os_errno = ETIMEDOUT;
    std::exchange(thaw_reply_, nullptr)(std::move(late));
  });
  if (state_ == State::kFrozen) start_thaw();
}

void FreezeLease::start_thaw() {
  if (state_ != State::kThawing) state_at_ = Clock::now();
  state_ = State::kThawing;
  let_disks_go();  // what the guest does to thaw may need them
  limit_timer_.expires_at(Clock::time_point::min());
  on_freezer(
      [freezer = config_.freezer] {
        std::pair<Result<Thawed>, std::optional<HookReport>> done(freezer->thaw(kThawTimeout),
                                                                  std::nullopt);
        if (done.first) done.second = freezer->hooks(kThawTimeout);
        return done;
      },
      [this](std::pair<Result<Thawed>, std::optional<HookReport>> done) {
        on_thawed(std::move(done.first), done.second);
      });
}

void FreezeLease::on_thawed(Result<Thawed> thawed, const std::optional<HookReport>& hooks) {
  if (thawed) {
    return finish_thaw({{"thawed", thawed->count},
                        {"frozen_ms", milliseconds_between(frozen_at_, thawed->at)},
                        {"complaint", thawed->complaint},
                        {"hooks", hooks_to_json(hooks)}});
  }
  // Told once for each reason.
  if (std::exchange(thaw_error_, thawed.error().message) != thaw_error_) {
    config_.event("the guest may still be frozen, and is told to thaw until it answers: " +
                  thaw_error_);
  }
  retry_timer_.expires_after(config_.retry);
  retry_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) start_thaw();
  });
}

void FreezeLease::finish_thaw(const Json& result) {
  if (!std::exchange(thaw_error_, "").empty()) config_.event("the guest is thawed");
  if (Result<> cleared = config_.journal->clear(); !cleared) {
    config_.event(cleared.error().message);
  }
  state_ = State::kOpen;
  state_at_ = Clock::now();
  thaw_timer_.cancel();
  if (const JsonServer::Reply reply = std::exchange(thaw_reply_, nullptr)) {
    reply(ended_.empty() ? Result<Json>(result) : Result<Json>(not_now("thawed")));
  }
  if (!owned()) end();
}

void FreezeLease::closed(JsonServer::Id id) {
  if (id != owner_id_) return;
  owner_id_ = 0;
  thaw_reply_ = nullptr;
  let_disks_go();
  if (state_ == State::kOpen) end();
  if (state_ == State::kFrozen) {
    config_.event(owner_ + " went away without thawing the guest, which is thawed now");
    start_thaw();
  }
}

void FreezeLease::end() {
  state_ = State::kIdle;
  owner_.clear();
  ended_.clear();
  // After whatever the freezer does still.
  on_freezer(
      [freezer = config_.freezer] {
        freezer->give_back_port();
        return true;
      },
      [](bool) {});
}

Json FreezeLease::status() const {
  static constexpr const char* kNames[] = {"idle", "open", "open", "freezing", "frozen", "thawing"};
  if (state_ == State::kIdle) return nullptr;
  Json status{{"state", kNames[static_cast<size_t>(state_)]},
              {"held", held_},
              {"owner", owner_},
              {"seconds", seconds_since(state_at_)}};
  if (!thaw_error_.empty()) status["error"] = thaw_error_;
  return status;
}

}  // namespace plumb
