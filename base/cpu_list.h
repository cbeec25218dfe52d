// Host CPUs as people and the kernel write them: "0-3,8".
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

inline constexpr int kMaxCpus = 1024;  // CPU_SETSIZE

// Errors (kUsage): empty, not a list, a number that is kMaxCpus or more. In the order written.
Result<std::vector<int>> parse_cpu_list(std::string_view text);

// Binds thread `thread_id` (0: the caller) to those CPUs. Errors: none of them is there, or may be
// used by this process.
Result<> bind_to_cpus(int thread_id, const std::vector<int>& cpus);

}  // namespace plumb
