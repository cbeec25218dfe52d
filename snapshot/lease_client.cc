#include "snapshot/lease_client.h"

#include <nlohmann/json.hpp>

#include "base/json_socket.h"

namespace plumb {
namespace {

// With the definition of the guest, which may be libvirt's XML (domain_xml.h).
constexpr size_t kMaxAnswerBytes = size_t{256} << 10U;

}  // namespace

Result<> LeaseClient::ask(const char* what, nlohmann::json more, std::span<const int> fds) {
  more["do"] = what;
  return send_request(socket_.get(), more, fds);
}

Result<nlohmann::json> LeaseClient::answer(int timeout_ms) {
  return receive_answer(socket_.get(), kMaxAnswerBytes, timeout_ms);
}

Result<nlohmann::json> LeaseClient::call(const char* what, nlohmann::json more, int timeout_ms,
                                         std::span<const int> fds) {
  TRY(ask(what, std::move(more), fds));
  return answer(timeout_ms);
}

Result<> let_overlay_go(LeaseClient& lease, const std::string& uuid) {
  constexpr unsigned kLimitMs = 5'000;
  constexpr int kPatienceMs = 30'000;
  TRY(lease.call("hold", {{"limit_ms", kLimitMs}}, kPatienceMs));
  Result<nlohmann::json> let_go = lease.call("let-go", {{"uuid", uuid}}, kPatienceMs);
  Result<nlohmann::json> released = lease.call("release", nlohmann::json::object(), kPatienceMs);
  TRY(std::move(let_go));
  TRY(std::move(released));
  return {};
}

}  // namespace plumb
