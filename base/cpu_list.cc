#include "base/cpu_list.h"

#include <sched.h>

#include <cerrno>
#include <charconv>

namespace plumb {
namespace {

static_assert(kMaxCpus == CPU_SETSIZE);

// The number at the front of `text`, which is cut off; -1 when there is none in range.
int take_number(std::string_view& text) {
  int number = -1;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{} || number < 0 || number >= kMaxCpus) return -1;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

}  // namespace

Result<std::vector<int>> parse_cpu_list(std::string_view text) {
  const Error error = usage_error("'{}' is not a list of CPUs such as 0-3,8", text);
  std::vector<int> cpus;
  do {
    const int first = take_number(text);
    int last = first;
    if (first >= 0 && text.starts_with('-')) {
      text.remove_prefix(1);
      last = take_number(text);
    }
    if (first < 0 || last < first) return error;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (text.empty()) return cpus;
    if (!text.starts_with(',')) return error;
    text.remove_prefix(1);
  } while (true);
}

Result<> bind_to_cpus(int thread_id, const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  if (::sched_setaffinity(thread_id, sizeof(set), &set) == 0) return {};
  return os_error(errno, "a thread cannot be kept to the host CPUs asked for");
}

}  // namespace plumb
