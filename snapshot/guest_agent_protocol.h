// The words of qemu-guest-agent (QEMU, qga/qapi-schema.json; 7.2 is Debian 12's): one JSON object a
// line each way, one request at a time, and no number that ties an answer to its request.
//
// All here is pure. What comes from a guest is trusted for nothing: an answer may be of any kind,
// of any length, or never end.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

// Sent before guest-sync-delimited, and by the agent before its answer: no UTF-8 text has it.
inline constexpr char kAgentDelimiter = '\xff';

// `command` and its arguments (null: none) as a line.
std::string agent_request(std::string_view command, const nlohmann::json& arguments);
// guest-sync-delimited with what ends a half-sent request before it.
std::string agent_sync_request(int64_t id);

// Cuts what the agent sends into lines.
class AgentLines {
 public:
  static constexpr size_t kMaxLineBytes = size_t{1} << 20U;

  // Takes bytes; an error when a line gets longer than kMaxLineBytes, and nothing is kept then.
  Result<> add(std::string_view bytes);
  // The next whole line, without its end; what stood before a delimiter in it is gone.
  std::optional<std::string> next();
  void clear() { text_.clear(); }

 private:
  std::string text_;
};

// What "return" holds. Errors: what the agent refused, in its words (os_errno 0); a line that is no
// answer (EPROTO).
Result<nlohmann::json> parse_agent_answer(std::string_view command, std::string_view line);

// Whether the line is the answer to agent_sync_request(id).
bool is_sync_answer(std::string_view line, int64_t id);

// The answer to guest-info.
struct AgentInfo {
  std::string version;
  std::set<std::string> commands;  // those that are enabled

  bool can(std::string_view command) const { return commands.contains(std::string(command)); }
};
Result<AgentInfo> parse_agent_info(const nlohmann::json& answer);

// A number of file systems, as freeze and thaw give it.
Result<unsigned> parse_agent_count(std::string_view command, const nlohmann::json& answer);

// The answer to guest-fsfreeze-status.
Result<bool> parse_frozen(const nlohmann::json& answer);

// The answers to guest-get-osinfo and guest-get-fsinfo, without what is not understood: they are
// recorded, and nothing rests on them.
struct GuestOs {
  std::string id;    // "debian", "mswindows"
  std::string name;  // "Debian GNU/Linux 12 (bookworm)"
  std::string kernel;

  bool windows() const { return id == "mswindows"; }
};
GuestOs parse_guest_os(const nlohmann::json& answer);

struct GuestFileSystem {
  std::string mountpoint;
  std::string type;
  std::vector<std::string> serials;  // of the disks below it
};
std::vector<GuestFileSystem> parse_file_systems(const nlohmann::json& answer);

// The answer to guest-file-read.
Result<std::string> parse_file_content(const nlohmann::json& answer);

}  // namespace plumb
