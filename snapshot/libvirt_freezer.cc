#include "snapshot/libvirt_freezer.h"

#include <algorithm>
#include <cerrno>

namespace plumb {
namespace {

// An agent that is there answers a thaw within this: the next attempt is not to be far.
constexpr std::chrono::seconds kAnswers{10};

}  // namespace

Result<> LibvirtFreezer::wait_at_most(Timeout timeout) {
  // Zero would be not to wait for an answer.
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(timeout);
  return config_.domain->set_agent_timeout(std::max(seconds, std::chrono::seconds(1)));
}

Result<GuestFacts> LibvirtFreezer::facts(Timeout timeout) {
  TRY(wait_at_most(timeout));
  GuestFacts facts;
  // Not answered by a guest that is frozen already, by someone else: it stays as it is.
  facts.file_systems = TRY(config_.domain->file_systems());
  if (Result<GuestOs> os = config_.domain->os()) facts.os = std::move(os).value();
  return facts;
}

Result<unsigned> LibvirtFreezer::freeze(const std::vector<std::string>& mountpoints,
                                        Timeout timeout) {
  TRY(wait_at_most(timeout));
  return config_.domain->freeze(mountpoints);
}

Result<Thawed> LibvirtFreezer::thaw(Timeout timeout) {
  config_.await_resumed(timeout);
  if (TRY(config_.domain->state()) == LibvirtDomain::State::kOff) {
    return Thawed{.count = 0, .complaint = "the domain was shut off meanwhile"};
  }
  TRY(wait_at_most(std::min<Timeout>(timeout, kAnswers)));
  Result<unsigned> count = config_.domain->thaw();
  if (count) return Thawed{.count = *count, .complaint = ""};
  if (count.error().os_errno != 0) return std::move(count).error();
  // The agent answered, and complains: VSS does of a freeze that was too long, after the thaw. The
  // second time it only thaws.
  const Result<unsigned> again = config_.domain->thaw();
  if (!again.ok()) return std::move(count).error();
  return Thawed{.count = again.value(), .complaint = count.error().message};
}

void LibvirtFreezer::give_back_port() {
  // A domain that is gone has no timeout.
  static_cast<void>(config_.domain->set_agent_timeout(std::nullopt));
  if (config_.given_back) config_.given_back();
}

}  // namespace plumb
