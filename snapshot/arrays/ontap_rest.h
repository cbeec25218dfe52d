// Requests to ONTAP's REST interface, with their jobs waited for.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/https_client.h"
#include "base/result.h"
#include "snapshot/arrays/ontap.h"
#include "snapshot/arrays/ontap_answer.h"

namespace plumb {

class OntapRest {
 public:
  using Deadline = HttpsClient::Deadline;

  OntapRest(const OntapConfig& config, const std::string& password);

  // "array NAME (ONTAP ADDRESS): TEXT"
  Error error(const std::string& text) const;
  Error error(ErrorKind kind, const std::string& text) const;
  // An error of this host's, told as the array's.
  Error of_array(const Error& cause) const;

  Deadline soon() const;
  Deadline in_frozen_time() const;

  // `path` with its query, encoded, below /api. Errors of kind kNotFound: there is no such thing.
  Result<std::string> get(const std::string& path, Deadline deadline) const;
  // The answer, once the job that it may have started has ended well.
  Result<std::string> send(const char* method, const std::string& path, const nlohmann::json& body,
                           Deadline deadline) const;

  // All pieces of a list.
  template <typename T>
  Result<std::vector<T>> list(const std::string& path,
                              Result<OntapPage<T>> (*read)(std::string_view)) const {
    return list(path, read, soon());
  }
  template <typename T>
  Result<std::vector<T>> list(const std::string& path,
                              Result<OntapPage<T>> (*read)(std::string_view),
                              Deadline deadline) const {
    std::vector<T> all;
    std::string next = path;
    while (!next.empty()) {
      OntapPage<T> page = TRY(understood(path, read(TRY(get(next, deadline)))));
      for (T& record : page.records) all.push_back(std::move(record));
      if (all.size() > kMaxRecords || (page.records.empty() && !page.next.empty())) {
        return error("its list of " + path + " does not end");
      }
      next = page.next.empty() ? "" : page.next.substr(std::string_view("/api").size());
    }
    return all;
  }

  // What was read from an answer; an error says of which request.
  template <typename T>
  Result<T> understood(const std::string& path, Result<T> read) const {
    if (read) return read;
    return error(path.substr(0, path.find('?')) + ": " + read.error().message);
  }

 private:
  static constexpr size_t kMaxRecords = 200'000;

  Result<std::string> call(const char* method, const std::string& path, const std::string& body,
                           Deadline deadline) const;
  Result<> wait_for_job(const std::string& what, const std::string& uuid, Deadline deadline) const;

  const OntapConfig& config_;
  const std::string authorization_;
  mutable HttpsClient client_;
};

}  // namespace plumb
