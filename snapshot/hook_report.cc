#include "snapshot/hook_report.h"

#include <nlohmann/json.hpp>

namespace plumb {

Result<HookReport> parse_hook_report(std::string_view text) {
  using Json = nlohmann::json;
  const auto bad = [] { return failed("the hooks' report is not as docs/formats has it"); };
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("version", Json()) != 1) return bad();
  const Json count = json.value("count", Json());
  const Json phase = json.value("phase", Json());
  const Json hooks = json.value("hooks", Json());
  if (!count.is_number_unsigned() || !hooks.is_array()) return bad();
  if (phase != "freeze" && phase != "thaw") return bad();
  HookReport report{
      .count = count.get<uint64_t>(), .thawed = phase == "thaw", .good = {}, .failed = {}};
  for (const Json& hook : hooks) {
    if (!hook.is_object()) return bad();
    const Json name = hook.value("name", Json());
    const Json status = hook.value("status", Json());
    if (!name.is_string()) return bad();
    if (status != "ok" && status != "failed" && status != "timeout") return bad();
    (status == "ok" ? report.good : report.failed).push_back(name.get<std::string>());
  }
  return report;
}

}  // namespace plumb
