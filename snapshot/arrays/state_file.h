// StateFile: what a provider has to remember by itself, because its array does not: a small JSON
// object in a file that is replaced as a whole, by one process at a time.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

class StateFile {
 public:
  // The state while nobody else may change it. Waits for others, who have it for as long as their
  // request takes.
  class Locked {
   public:
    nlohmann::json& json() { return json_; }
    // Durable when it returns well; else the file is as it was.
    Result<> store();

   private:
    friend class StateFile;
    Locked(std::string path, UniqueFd lock, nlohmann::json json)
        : path_(std::move(path)), lock_(std::move(lock)), json_(std::move(json)) {}
    std::string path_;
    UniqueFd lock_;
    nlohmann::json json_;
  };

  // `kind` is written into the file: what is another kind's is refused. `array` is for messages.
  StateFile(std::string array, std::string path, std::string kind)
      : array_(std::move(array)), path_(std::move(path)), kind_(std::move(kind)) {}

  const std::string& path() const { return path_; }

  // An empty object of this kind when there is no file yet. Errors: it cannot be read, or is
  // damaged.
  Result<nlohmann::json> read() const;
  Result<Locked> lock() const;

 private:
  const std::string array_;
  const std::string path_;
  const std::string kind_;
};

}  // namespace plumb
