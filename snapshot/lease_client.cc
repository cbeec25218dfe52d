#include "snapshot/lease_client.h"

#include <nlohmann/json.hpp>

#include "base/json_socket.h"

namespace plumb {
namespace {

// With the definition of the guest, which may be libvirt's XML (domain_xml.h).
constexpr size_t kMaxAnswerBytes = size_t{256} << 10U;

}  // namespace

Result<> LeaseClient::ask(const char* what, nlohmann::json more) {
  more["do"] = what;
  return send_request(socket_.get(), more);
}

Result<nlohmann::json> LeaseClient::answer(int timeout_ms) {
  return receive_answer(socket_.get(), kMaxAnswerBytes, timeout_ms);
}

Result<nlohmann::json> LeaseClient::call(const char* what, nlohmann::json more, int timeout_ms) {
  TRY(ask(what, std::move(more)));
  return answer(timeout_ms);
}

}  // namespace plumb
