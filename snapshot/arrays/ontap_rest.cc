#include "snapshot/arrays/ontap_rest.h"

#include <nlohmann/json.hpp>
#include <thread>

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFirstLook = std::chrono::milliseconds(10);
constexpr auto kSlowestLook = std::chrono::milliseconds(1000);

std::string reason_of(const HttpsAnswer& answer) {
  std::string reason = ontap_answer::reason(answer.body);
  if (reason.empty()) reason = "no reason given";
  return fmt::format("{} (HTTP {})", reason, answer.status);
}

}  // namespace

OntapRest::OntapRest(const OntapConfig& config, const std::string& password)
    : config_(config),
      authorization_(basic_authorization(config.user, password)),
      client_({.host = config.address, .port = config.port, .ca_file = config.ca_file}) {}

Error OntapRest::error(const std::string& text) const { return error(ErrorKind::kFailed, text); }

Error OntapRest::error(ErrorKind kind, const std::string& text) const {
  return make_error(kind, "array {} (ONTAP {}): {}", config_.name, config_.address, text);
}

Error OntapRest::of_array(const Error& cause) const { return error(cause.kind, cause.message); }

OntapRest::Deadline OntapRest::soon() const {
  return Clock::now() + std::chrono::milliseconds(config_.timeout_ms);
}

OntapRest::Deadline OntapRest::in_frozen_time() const {
  return Clock::now() + std::chrono::milliseconds(config_.take_timeout_ms);
}

Result<std::string> OntapRest::call(const char* method, const std::string& path,
                                    const std::string& body, Deadline deadline) const {
  HttpsRequest request{.method = method, .target = "/api" + path, .headers = {}, .body = body};
  request.headers = {{"Authorization", authorization_}, {"Accept", "application/json"}};
  if (!body.empty()) request.headers.emplace_back("Content-Type", "application/json");
  const std::string what = fmt::format("{} {}", method, path.substr(0, path.find('?')));
  Result<HttpsAnswer> asked = client_.ask(request, deadline);
  if (!asked) return error(what + ": " + asked.error().message);
  if (asked->status >= 200 && asked->status < 300) return std::move(asked->body);
  if (asked->status == 401 || asked->status == 403) {
    return error(fmt::format("{}: the user {} may not do that: {}; see 'user' and 'password-file'",
                             what, config_.user, reason_of(*asked)));
  }
  return error(asked->status == 404 ? ErrorKind::kNotFound : ErrorKind::kFailed,
               what + ": " + reason_of(*asked));
}

Result<std::string> OntapRest::get(const std::string& path, Deadline deadline) const {
  return call("GET", path, "", deadline);
}

Result<std::string> OntapRest::send(const char* method, const std::string& path,
                                    const nlohmann::json& body, Deadline deadline) const {
  const std::string text = body.is_null() ? "" : body.dump();
  std::string answer = TRY(call(method, path, text, deadline));
  const std::string job = TRY(understood(path, ontap_answer::job_of(answer)));
  if (!job.empty()) TRY(wait_for_job(fmt::format("{} {}", method, path), job, deadline));
  return answer;
}

Result<> OntapRest::wait_for_job(const std::string& what, const std::string& uuid,
                                 Deadline deadline) const {
  const std::string of = what.substr(0, what.find('?'));
  const std::string path = "/cluster/jobs/" + uuid + "?fields=state,message,error";
  for (Clock::duration pause = kFirstLook;;
       pause = std::min<Clock::duration>(2 * pause, kSlowestLook)) {
    const std::string answer = TRY(get(path, deadline));
    const OntapJob job = TRY(understood(path, ontap_answer::job(answer)));
    if (job.state == OntapJob::State::kDone) return {};
    if (job.state == OntapJob::State::kFailed) {
      return error(fmt::format("{}: its job failed: {}", of,
                               job.message.empty() ? "no reason given" : job.message));
    }
    if (Clock::now() + pause >= deadline) {
      return error(fmt::format("{}: its job {} has not ended in time", of, uuid));
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace plumb
