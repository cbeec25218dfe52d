#include "snapshot/arrays/hitachi_rest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFirstLook = std::chrono::milliseconds(10);
constexpr auto kSlowestLook = std::chrono::milliseconds(1000);
constexpr unsigned kLogOutMs = 2'000;

std::string reason_of(const HttpsAnswer& answer) {
  std::string reason = hitachi_answer::reason(answer.body);
  if (reason.empty()) reason = "no reason given";
  return fmt::format("{} (HTTP {})", reason, answer.status);
}

std::string root_of(const HitachiConfig& config) {
  const std::string root = "/ConfigurationManager/v1/objects";
  return config.storage_id.empty() ? root
                                   : root + "/storages/" + percent_encoded(config.storage_id);
}

}  // namespace

HitachiRest::HitachiRest(const HitachiConfig& config, const std::string& password)
    : config_(config),
      password_authorization_(basic_authorization(config.user, password)),
      root_(root_of(config)),
      client_({.host = config.address, .port = config.port, .ca_file = config.ca_file}) {}

HitachiRest::~HitachiRest() {
  if (session_authorization_.empty()) return;
  static_cast<void>(ask("DELETE", fmt::format("/sessions/{}", session_id_), "",
                        session_authorization_, in(kLogOutMs))
                        .ok());
}

Error HitachiRest::error(const std::string& text) const { return error(ErrorKind::kFailed, text); }

Error HitachiRest::error(ErrorKind kind, const std::string& text) const {
  return make_error(kind, "array {} (Hitachi {}): {}", config_.name, config_.address, text);
}

HitachiRest::Deadline HitachiRest::in(unsigned milliseconds) {
  return Clock::now() + std::chrono::milliseconds(milliseconds);
}

HitachiRest::Deadline HitachiRest::soon() const { return in(config_.timeout_ms); }

Result<HttpsAnswer> HitachiRest::ask(const char* method, const std::string& path,
                                     const std::string& body, const std::string& authorization,
                                     Deadline deadline) const {
  HttpsRequest request{.method = method, .target = root_ + path, .headers = {}, .body = body};
  request.headers = {{"Authorization", authorization}, {"Accept", "application/json"}};
  if (!body.empty()) request.headers.emplace_back("Content-Type", "application/json");
  const auto left =
      std::chrono::duration_cast<std::chrono::seconds>(deadline - Clock::now()).count();
  // So that the answer comes when the job has ended, if it does so in time.
  if (std::string_view(method) != "GET" && left > 1) {
    request.headers.emplace_back("Response-Max-Wait", std::to_string(left - 1));
    request.headers.emplace_back("Response-Job-Status", "Completed");
  }
  Result<HttpsAnswer> asked = client_.ask(request, deadline);
  if (asked) return asked;
  return error(
      fmt::format("{} {}: {}", method, path.substr(0, path.find('?')), asked.error().message));
}

Result<> HitachiRest::log_in(Deadline deadline) const {
  session_authorization_.clear();
  const HttpsAnswer answer = TRY(ask("POST", "/sessions", "", password_authorization_, deadline));
  if (answer.status != 200) {
    return error(fmt::format("the user {} gets no session: {}; see 'user' and 'password-file'",
                             config_.user, reason_of(answer)));
  }
  Result<HitachiSession> session = hitachi_answer::session(answer.body);
  if (!session) return error("/sessions: " + session.error().message);
  session_authorization_ = "Session " + session->token;
  session_id_ = session->id;
  return {};
}

Result<std::string> HitachiRest::call(const char* method, const std::string& path,
                                      const std::string& body, Deadline deadline) const {
  const bool fresh = session_authorization_.empty();
  if (fresh) TRY(log_in(deadline));
  HttpsAnswer answer = TRY(ask(method, path, body, session_authorization_, deadline));
  if (answer.status == 401 && !fresh) {  // the session has ended, and nothing was done
    TRY(log_in(deadline));
    answer = TRY(ask(method, path, body, session_authorization_, deadline));
  }
  if (answer.status >= 200 && answer.status < 300) return std::move(answer.body);
  return error(answer.status == 404 ? ErrorKind::kNotFound : ErrorKind::kFailed,
               fmt::format("{} {}: {}", method, path.substr(0, path.find('?')), reason_of(answer)));
}

Result<> HitachiRest::send(const char* method, const std::string& path, const nlohmann::json& body,
                           Deadline deadline) const {
  const std::string text = body.is_null() ? "" : body.dump();
  std::string answer = TRY(call(method, path, text, deadline));
  Clock::duration pause = kFirstLook;
  while (true) {
    Result<HitachiJob> job = hitachi_answer::job(answer);
    if (!job) return error(fmt::format("{} {}: {}", method, path, job.error().message));
    if (job->state == HitachiJob::State::kDone) return {};
    if (job->state == HitachiJob::State::kFailed) {
      return error(fmt::format("{} {}: its job failed: {}", method, path,
                               job->reason.empty() ? "no reason given" : job->reason));
    }
    if (Clock::now() + pause >= deadline) {
      return error(fmt::format("{} {}: its job {} has not ended in time", method, path, job->id));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min<Clock::duration>(2 * pause, kSlowestLook);
    answer = TRY(call("GET", fmt::format("/jobs/{}", job->id), "", deadline));
  }
}

}  // namespace plumb
