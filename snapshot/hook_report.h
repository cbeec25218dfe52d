// Reads docs/formats/hook-report.md. Pure.
#pragma once

#include <string_view>

#include "base/result.h"
#include "snapshot/guest_freezer.h"

namespace plumb {

inline constexpr const char* kHookReportPath = "/run/plumb/hooks.json";  // in the guest

Result<HookReport> parse_hook_report(std::string_view text);

}  // namespace plumb
