// FakeAgent: the guest's end of an agent's port, which answers as qemu-ga 7.2 does, or as a test
// has it: slowly, wrongly, not at all. agent_host_test.cc compares it with the real one.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/unique_fd.h"

namespace plumb {

class FakeAgent {
 public:
  using Json = nlohmann::json;
  // Gives what is sent for a command, byte for byte; empty for silence. An override is asked first
  // and says `false` to leave it to the agent.
  using Override =
      std::function<bool(const std::string& command, const Json& arguments, std::string& answer)>;

  FakeAgent() : stop_(make_eventfd().value()) {}
  ~FakeAgent() {
    signal_eventfd(stop_.get());
    for (std::thread& thread : threads_) thread.join();
  }
  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;

  // A new connection to the one agent, for GuestAgent::Config::connect.
  UniqueFd connect() {
    int ends[2];
    ENSURE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    threads_.emplace_back([this, fd = ends[1]] { serve(UniqueFd(fd)); });
    return UniqueFd(ends[0]);
  }

  void override_with(Override override) {
    const std::lock_guard lock(mutex_);
    override_ = std::move(override);
  }
  // As seen from inside the guest.
  bool frozen() const { return frozen_; }
  void set_frozen(bool frozen) { frozen_ = frozen; }
  std::vector<std::string> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  unsigned file_systems = 2;

  static std::string ok(const Json& value) { return Json{{"return", value}}.dump() + "\n"; }
  static std::string error(const std::string& text) {
    return Json{{"error", {{"class", "GenericError"}, {"desc", text}}}}.dump() + "\n";
  }

 private:
  void serve(UniqueFd socket) {
    std::string text;
    while (true) {
      pollfd watched[] = {{socket.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      ::poll(watched, 2, -1);
      if (watched[1].revents != 0) return;
      char buffer[4096];
      const ssize_t got = ::recv(socket.get(), buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      text.append(buffer, static_cast<size_t>(got));
      for (size_t end = 0; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
        const std::string answer = answer_to(text.substr(0, end));
        static_cast<void>(::send(socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
      }
    }
  }

  std::string answer_to(std::string line) {
    // The parser is reset by the delimiter.
    if (const size_t at = line.rfind('\xff'); at != std::string::npos) line.erase(0, at + 1);
    const Json request = Json::parse(line, nullptr, false);
    if (!request.is_object()) return error("JSON parse error");
    const std::string command = request.value("execute", "");
    const Json arguments = request.value("arguments", Json::object());
    const std::lock_guard lock(mutex_);
    heard_.push_back(command);
    std::string answer;
    if (override_ && override_(command, arguments, answer)) return answer;
    return usual(command, arguments);
  }

  std::string usual(const std::string& command, const Json& arguments) {
    if (command == "guest-sync-delimited") return "\xff" + ok(arguments.at("id"));
    if (command == "guest-ping") return ok(Json::object());
    if (command == "guest-fsfreeze-status") return ok(frozen_ ? "frozen" : "thawed");
    if (command == "guest-info") return info();
    if (command == "guest-fsfreeze-thaw") return ok(frozen_.exchange(false) ? file_systems : 0U);
    if (frozen_) {
      return error("Command " + command + " has been disabled: the agent is in frozen state");
    }
    if (command == "guest-get-osinfo") {
      return ok({{"id", "debian"}, {"pretty-name", "Debian"}, {"kernel-release", "6.1"}});
    }
    if (command == "guest-get-fsinfo") return ok(Json::array());
    if (command.starts_with("guest-fsfreeze-freeze")) {
      frozen_ = true;
      return ok(file_systems);
    }
    return error("The command " + command + " has not been found");
  }

  static std::string info() {
    Json commands = Json::array();
    for (const char* name :
         {"guest-sync-delimited", "guest-ping", "guest-info", "guest-fsfreeze-status",
          "guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw",
          "guest-get-osinfo", "guest-get-fsinfo"}) {
      commands.push_back({{"name", name}, {"enabled", true}, {"success-response", true}});
    }
    return ok({{"version", "7.2.22"}, {"supported_commands", commands}});
  }

  UniqueFd stop_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  Override override_;
  std::vector<std::string> heard_;
  std::atomic<bool> frozen_ = false;
};

}  // namespace plumb
