#include "snapshot/libvirt_connection.h"

#include <libvirt/virterror.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "base/nearest.h"
#include "base/text.h"

namespace plumb {
namespace {

constexpr int kKeepAliveSeconds = 5;
constexpr unsigned kKeepAliveCount = 5;

// What libvirt's last error of this thread says of the guest; os_errno as in libvirt_domain.h.
Error last_error(std::string_view what) {
  const virErrorPtr last = virGetLastError();
  const int code = last == nullptr ? VIR_ERR_INTERNAL_ERROR : last->code;
  const char* text = last == nullptr || last->message == nullptr ? "unknown" : last->message;
  Error error = failed("{}: {}", what, printable(text));
  switch (code) {
    case VIR_ERR_AGENT_UNRESPONSIVE:
    case VIR_ERR_AGENT_UNSYNCED:
    case VIR_ERR_OPERATION_TIMEOUT:
      error.os_errno = ETIMEDOUT;
      break;
    case VIR_ERR_RPC:
    case VIR_ERR_SYSTEM_ERROR:
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
      error.os_errno = EPIPE;
      break;
    default:
      // The connection may have broken in the middle of a call, with any error.
      if (last != nullptr && last->domain == VIR_FROM_RPC) error.os_errno = EPIPE;
      break;
  }
  return error;
}

Result<unsigned> count_of(int answer, std::string_view what) {
  if (answer < 0) return last_error(what);
  return static_cast<unsigned>(answer);
}

// Keep-alive messages are sent and read here, for as long as the process lives.
Result<> start_events() {
  if (virEventRegisterDefaultImpl() != 0) return last_error("libvirt's events do not work");
  std::thread([] {
    while (virEventRunDefaultImpl() == 0) {
    }
  }).detach();
  return {};
}

std::string text_of(const virTypedParameter* values, int count, const char* name) {
  const char* text = nullptr;
  auto* all = const_cast<virTypedParameter*>(values);
  if (virTypedParamsGetString(all, count, name, &text) != 1 || text == nullptr) return {};
  return text;
}

}  // namespace

Result<std::unique_ptr<LibvirtConnection>> LibvirtConnection::open(const std::string& uri,
                                                                   const std::string& name) {
  ::setenv("LIBVIRT_AUTOSTART", "0", 1);  // NOLINT(concurrency-mt-unsafe): before any thread
  // Errors are told by who called.
  virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
  if (virInitialize() != 0) return last_error("libvirt's library cannot be used");
  TRY(start_events());
  std::unique_ptr<LibvirtConnection> made(new LibvirtConnection(uri, name));
  TRY(made->connection());
  return made;
}

Result<LibvirtConnection::Connect> LibvirtConnection::connection() {
  const std::lock_guard lock(mutex_);
  if (connection_ && virConnectIsAlive(connection_.get()) == 1) return connection_;
  connection_.reset(virConnectOpen(uri_.c_str()), [](virConnectPtr connection) {
    if (connection != nullptr) virConnectClose(connection);
  });
  if (!connection_) {
    Error error = last_error(fmt::format("libvirt does not answer at {}", printable(uri_)));
    error.os_errno = EPIPE;
    return error;
  }
  static_cast<void>(virConnectSetKeepAlive(connection_.get(), kKeepAliveSeconds, kKeepAliveCount));
  return connection_;
}

// It keeps its connection alive by itself.
Result<LibvirtConnection::Domain> LibvirtConnection::domain() {
  const Connect connection = TRY(this->connection());
  const virDomainPtr found = virDomainLookupByName(connection.get(), name_.c_str());
  if (found != nullptr) return Domain(found, [](virDomainPtr domain) { virDomainFree(domain); });
  Error error = last_error(fmt::format("domain '{}' cannot be asked for", printable(name_)));
  if (virGetLastErrorCode() != VIR_ERR_NO_DOMAIN) return error;
  return no_such_domain(connection.get(), error.message);
}

Error LibvirtConnection::no_such_domain(virConnectPtr connection, const std::string& says) const {
  virDomainPtr* all = nullptr;
  const int count = virConnectListAllDomains(connection, &all, 0);
  if (count < 0) return make_error(ErrorKind::kNotFound, "{}", says);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.emplace_back(virDomainGetName(all[i]));
    virDomainFree(all[i]);
  }
  std::free(all);  // NOLINT: libvirt's own allocation
  const std::vector<std::string_view> known(names.begin(), names.end());
  return make_error(ErrorKind::kNotFound, "libvirt has no domain '{}' at {}{}; see `virsh list`",
                    printable(name_), printable(uri_), nearest_hint(name_, known));
}

Result<> LibvirtConnection::check_runs() {
  TRY(domain());
  if (TRY(state()) != State::kOff) return {};
  return make_error(ErrorKind::kNotFound,
                    "domain '{}' is shut off, and only what runs is copied here; start it, or copy "
                    "its disks while it is off",
                    printable(name_));
}

Result<std::string> LibvirtConnection::xml() {
  const Domain found = TRY(domain());
  char* text = virDomainGetXMLDesc(found.get(), 0);
  if (text == nullptr) return last_error("libvirt does not describe the domain");
  std::string copy(text);
  std::free(text);  // NOLINT: libvirt's own allocation
  return copy;
}

Result<LibvirtDomain::State> LibvirtConnection::state() {
  Result<Domain> found = domain();
  if (!found && found.error().kind == ErrorKind::kNotFound) return State::kOff;
  if (!found) return std::move(found).error();
  int state = VIR_DOMAIN_NOSTATE;
  if (virDomainGetState(found->get(), &state, nullptr, 0) != 0) {
    if (virGetLastErrorCode() == VIR_ERR_NO_DOMAIN) return State::kOff;
    return last_error("libvirt does not tell the domain's state");
  }
  switch (state) {
    case VIR_DOMAIN_SHUTOFF:
    case VIR_DOMAIN_CRASHED:
      return State::kOff;
    case VIR_DOMAIN_PAUSED:
    case VIR_DOMAIN_PMSUSPENDED:
      return State::kPaused;
    default:
      return State::kRunning;
  }
}

Result<> LibvirtConnection::set_agent_timeout(std::optional<std::chrono::seconds> timeout) {
  const Domain found = TRY(domain());
  const int seconds =
      timeout ? static_cast<int>(timeout->count()) : VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK;
  if (virDomainAgentSetResponseTimeout(found.get(), seconds, 0) == 0) return {};
  return last_error("the guest's agent cannot be used");
}

Result<GuestOs> LibvirtConnection::os() {
  const Domain found = TRY(domain());
  virTypedParameterPtr values = nullptr;
  int count = 0;
  if (virDomainGetGuestInfo(found.get(), VIR_DOMAIN_GUEST_INFO_OS, &values, &count, 0) != 0) {
    return last_error("the guest's agent does not tell its system");
  }
  GuestOs os{.id = text_of(values, count, "os.id"),
             .name = text_of(values, count, "os.pretty-name"),
             .kernel = text_of(values, count, "os.kernel-release")};
  virTypedParamsFree(values, count);
  return os;
}

Result<std::vector<GuestFileSystem>> LibvirtConnection::file_systems() {
  const Domain found = TRY(domain());
  virDomainFSInfoPtr* all = nullptr;
  const int count = virDomainGetFSInfo(found.get(), &all, 0);
  if (count < 0) return last_error("the guest's agent does not tell its file systems");
  std::vector<GuestFileSystem> systems;
  for (int i = 0; i < count; ++i) {
    systems.push_back({.mountpoint = all[i]->mountpoint, .type = all[i]->fstype, .serials = {}});
    virDomainFSInfoFree(all[i]);
  }
  std::free(all);  // NOLINT: libvirt's own allocation
  return systems;
}

Result<unsigned> LibvirtConnection::freeze(const std::vector<std::string>& mountpoints) {
  const Domain found = TRY(domain());
  std::vector<const char*> names;
  names.reserve(mountpoints.size());
  for (const std::string& one : mountpoints) names.push_back(one.c_str());
  return count_of(virDomainFSFreeze(found.get(), names.empty() ? nullptr : names.data(),
                                    static_cast<unsigned>(names.size()), 0),
                  "the guest cannot be frozen");
}

Result<unsigned> LibvirtConnection::thaw() {
  const Domain found = TRY(domain());
  return count_of(virDomainFSThaw(found.get(), nullptr, 0, 0), "the guest cannot be thawed");
}

Result<> LibvirtConnection::suspend() {
  const Domain found = TRY(domain());
  if (virDomainSuspend(found.get()) == 0) return {};
  return last_error("the guest cannot be suspended");
}

Result<> LibvirtConnection::resume() {
  const Domain found = TRY(domain());
  if (virDomainResume(found.get()) == 0) return {};
  return last_error("the guest cannot be resumed");
}

}  // namespace plumb
