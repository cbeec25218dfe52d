#include "snapshot/agent_freezer.h"

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "snapshot/hook_report.h"

namespace plumb {
namespace {

constexpr uint32_t kMaxReportBytes = 65536;

// An agent that is there answers within this, frozen or not.
constexpr std::chrono::seconds kAnswers{10};

// What a freeze cannot do without.
constexpr const char* kNeeded[] = {"guest-fsfreeze-status", "guest-fsfreeze-freeze",
                                   "guest-fsfreeze-thaw"};

}  // namespace

Result<GuestFacts> AgentFreezer::facts(Timeout timeout) {
  TRY(agent_.sync(timeout));
  info_ = TRY(agent_.info(timeout));
  for (const char* command : kNeeded) {
    if (info_.can(command)) continue;
    return failed(
        "guest agent {} does not offer {}; take it from the agent's block-rpcs list in the guest, "
        "or install a newer agent",
        printable(info_.version), command);
  }
  if (TRY(agent_.frozen(timeout))) {
    Error error = failed("the guest is frozen already, by someone else; thaw it first");
    error.os_errno = EBUSY;
    return error;
  }
  GuestFacts facts{.agent = info_.version, .os = {}, .file_systems = {}, .hooks = hooks(timeout)};
  if (info_.can("guest-get-osinfo")) {
    if (Result<GuestOs> os = agent_.os(timeout)) facts.os = std::move(os).value();
  }
  if (info_.can("guest-get-fsinfo")) {
    Result<std::vector<GuestFileSystem>> systems = agent_.file_systems(timeout);
    if (systems) facts.file_systems = std::move(systems).value();
  }
  return facts;
}

Result<unsigned> AgentFreezer::freeze(const std::vector<std::string>& mountpoints,
                                      Timeout timeout) {
  return agent_.freeze(mountpoints, timeout);
}

Result<Thawed> AgentFreezer::thaw(Timeout timeout) {
  // What an agent that is not there yet was sent is lost: the next attempt is not to be far.
  TRY(agent_.sync(std::min<Timeout>(timeout, kAnswers)));
  Result<unsigned> count = agent_.thaw(timeout);
  if (!count && count.error().os_errno != 0) return std::move(count).error();
  Thawed thawed;
  if (count) thawed.count = *count;
  if (!count) thawed.complaint = count.error().message;
  if (!TRY(agent_.frozen(timeout))) return thawed;
  Error error = failed("the guest is still frozen although its agent was told to thaw it{}{}",
                       thawed.complaint.empty() ? "" : ": ", thawed.complaint);
  error.os_errno = EBUSY;
  return error;
}

std::optional<HookReport> AgentFreezer::hooks(Timeout timeout) {
  if (!info_.can("guest-file-open") || !info_.can("guest-file-read")) return std::nullopt;
  Result<std::string> text = agent_.read_file(kHookReportPath, kMaxReportBytes, timeout);
  if (!text) return std::nullopt;
  Result<HookReport> report = parse_hook_report(*text);
  if (!report) return std::nullopt;
  return std::move(report).value();
}

}  // namespace plumb
