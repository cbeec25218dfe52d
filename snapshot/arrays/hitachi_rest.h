// Requests to a Configuration Manager, in a session, with their jobs waited for.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/https_client.h"
#include "base/result.h"
#include "snapshot/arrays/hitachi.h"
#include "snapshot/arrays/hitachi_answer.h"

namespace plumb {

class HitachiRest {
 public:
  using Deadline = HttpsClient::Deadline;

  HitachiRest(const HitachiConfig& config, const std::string& password);
  // Ends the session: an array has few.
  ~HitachiRest();
  HitachiRest(const HitachiRest&) = delete;
  HitachiRest& operator=(const HitachiRest&) = delete;

  // "array NAME (Hitachi ADDRESS): TEXT"
  Error error(const std::string& text) const;
  Error error(ErrorKind kind, const std::string& text) const;
  Error of_array(const Error& cause) const { return error(cause.kind, cause.message); }

  static Deadline in(unsigned milliseconds);
  Deadline soon() const;

  // `path` below the array's objects, "/ldevs/5". Errors of kind kNotFound: there is none.
  template <typename T>
  Result<T> get(const std::string& path, Result<T> (*read)(std::string_view)) const {
    const std::string answer = TRY(call("GET", path, "", soon()));
    Result<T> value = read(answer);
    if (value) return value;
    return error(path.substr(0, path.find('?')) + ": " + value.error().message);
  }
  // Waits for the job that it starts.
  Result<> send(const char* method, const std::string& path, const nlohmann::json& body,
                Deadline deadline) const;

 private:
  Result<std::string> call(const char* method, const std::string& path, const std::string& body,
                           Deadline deadline) const;
  Result<HttpsAnswer> ask(const char* method, const std::string& path, const std::string& body,
                          const std::string& authorization, Deadline deadline) const;
  Result<> log_in(Deadline deadline) const;

  const HitachiConfig& config_;
  const std::string password_authorization_;
  const std::string root_;  // of the paths
  mutable HttpsClient client_;
  mutable std::string session_authorization_;  // "": none
  mutable uint64_t session_id_ = 0;
};

}  // namespace plumb
