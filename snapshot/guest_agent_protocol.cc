#include "snapshot/guest_agent_protocol.h"

#include <cerrno>

#include "base/text.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr size_t kShownBytes = 80;  // of what a guest said, in a message

Error no_answer(std::string_view command, std::string_view line) {
  Error error = failed("the guest agent's answer to {} is no answer: '{}'", command,
                       printable(line.substr(0, kShownBytes)));
  error.os_errno = EPROTO;
  return error;
}

std::string text_at(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Json parse(std::string_view line) { return Json::parse(line, nullptr, false); }

}  // namespace

std::string agent_request(std::string_view command, const Json& arguments) {
  Json request{{"execute", command}};
  if (!arguments.is_null()) request["arguments"] = arguments;
  return request.dump() + "\n";
}

std::string agent_sync_request(int64_t id) {
  return kAgentDelimiter + agent_request("guest-sync-delimited", {{"id", id}});
}

Result<> AgentLines::add(std::string_view bytes) {
  text_ += bytes;
  const size_t end = text_.rfind('\n');
  const size_t open = end == std::string::npos ? text_.size() : text_.size() - end - 1;
  if (open <= kMaxLineBytes && text_.size() <= 2 * kMaxLineBytes) return {};
  text_.clear();
  Error error = failed("the guest agent sends a line of more than {} bytes", kMaxLineBytes);
  error.os_errno = EPROTO;
  return error;
}

std::optional<std::string> AgentLines::next() {
  const size_t end = text_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string line = text_.substr(0, end);
  text_.erase(0, end + 1);
  if (const size_t delimiter = line.rfind(kAgentDelimiter); delimiter != std::string::npos) {
    line.erase(0, delimiter + 1);
  }
  return line;
}

Result<Json> parse_agent_answer(std::string_view command, std::string_view line) {
  Json answer = parse(line);
  if (!answer.is_object()) return no_answer(command, line);
  if (answer.contains("return")) return std::move(answer["return"]);
  if (!answer.contains("error") || !answer["error"].is_object()) return no_answer(command, line);
  return failed("the guest agent refuses {}: {}", command,
                printable(text_at(answer["error"], "desc").substr(0, 4 * kShownBytes)));
}

bool is_sync_answer(std::string_view line, int64_t id) {
  const Json answer = parse(line);
  if (!answer.is_object()) return false;
  const auto found = answer.find("return");
  return found != answer.end() && found->is_number_integer() && found->get<int64_t>() == id;
}

Result<AgentInfo> parse_agent_info(const Json& answer) {
  AgentInfo info{.version = text_at(answer, "version"), .commands = {}};
  if (!answer.is_object() || !answer.contains("supported_commands") ||
      !answer["supported_commands"].is_array()) {
    return no_answer("guest-info", answer.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  for (const Json& command : answer["supported_commands"]) {
    if (!command.is_object()) continue;
    const auto enabled = command.find("enabled");
    const bool off = enabled != command.end() && enabled->is_boolean() && !enabled->get<bool>();
    if (!off) info.commands.insert(text_at(command, "name"));
  }
  return info;
}

Result<unsigned> parse_agent_count(std::string_view command, const Json& answer) {
  constexpr unsigned kMaxFileSystems = 1U << 20U;
  if (!answer.is_number_unsigned() || answer.get<uint64_t>() > kMaxFileSystems) {
    return no_answer(command, answer.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return answer.get<unsigned>();
}

Result<bool> parse_frozen(const Json& answer) {
  if (answer == "frozen") return true;
  if (answer == "thawed") return false;
  return no_answer("guest-fsfreeze-status",
                   answer.dump(-1, ' ', false, Json::error_handler_t::replace));
}

GuestOs parse_guest_os(const Json& answer) {
  return {.id = text_at(answer, "id"),
          .name = text_at(answer, "pretty-name"),
          .kernel = text_at(answer, "kernel-release")};
}

std::vector<GuestFileSystem> parse_file_systems(const Json& answer) {
  std::vector<GuestFileSystem> all;
  if (!answer.is_array()) return all;
  for (const Json& entry : answer) {
    GuestFileSystem system{
        .mountpoint = text_at(entry, "mountpoint"), .type = text_at(entry, "type"), .serials = {}};
    if (system.mountpoint.empty()) continue;
    if (const auto disks = entry.find("disk"); disks != entry.end() && disks->is_array()) {
      for (const Json& disk : *disks) {
        if (std::string serial = text_at(disk, "serial"); !serial.empty()) {
          system.serials.push_back(std::move(serial));
        }
      }
    }
    all.push_back(std::move(system));
  }
  return all;
}

Result<std::string> parse_file_content(const Json& answer) {
  Result<std::string> content = decode_base64(text_at(answer, "buf-b64"));
  if (!content || !answer.is_object()) {
    return no_answer("guest-file-read",
                     answer.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return content;
}

}  // namespace plumb
