// What a guest's agent sends: any bytes, cut anywhere, are lines, and any line is an answer or
// gives a sentence. Each answer is also read as that to every command.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/guest_agent_protocol.h"
#include "snapshot/hook_report.h"

namespace {

using plumb::Result;

template <typename T>
void good_or_told(Result<T> result) {
  ENSURE(result.ok() || !result.error().message.empty());
}

void read(const std::string& line) {
  static_cast<void>(plumb::is_sync_answer(line, 7));
  Result<nlohmann::json> answer = plumb::parse_agent_answer("guest-info", line);
  if (!answer) return good_or_told(std::move(answer));
  good_or_told(plumb::parse_agent_info(*answer));
  good_or_told(plumb::parse_agent_count("guest-fsfreeze-freeze", *answer));
  good_or_told(plumb::parse_frozen(*answer));
  good_or_told(plumb::parse_file_content(*answer));
  static_cast<void>(plumb::parse_guest_os(*answer));
  static_cast<void>(plumb::parse_file_systems(*answer));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  good_or_told(plumb::parse_hook_report(text));
  plumb::AgentLines lines;
  const size_t cut = size == 0 ? 0 : data[0] % size;
  for (const std::string_view part : {text.substr(0, cut), text.substr(cut)}) {
    if (!lines.add(part).ok()) return 0;
    while (std::optional<std::string> line = lines.next()) read(*line);
  }
  read(std::string("{\"return\":") + std::string(text) + "}");
  return 0;
}
