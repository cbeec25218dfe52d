#include "snapshot/grade.h"

#include <array>

#include "base/text.h"

namespace plumb {
namespace {

constexpr std::array<const char*, 3> kNames{"crash", "fs", "application"};

// Why the applications' part is not known to have been done; "" when it is.
std::string application_gap(const StandStill& still) {
  // VSS has the applications' writers take part in each freeze.
  if (still.facts->os.windows()) return "";
  if (!still.hooks) {
    return "no hooks of applications report from the guest, or nobody can ask them "
           "(docs/hooks/README.md tells how)";
  }
  const HookReport& now = *still.hooks;
  const uint64_t before = still.facts->hooks ? still.facts->hooks->count : 0;
  if (now.count != before + 1) {
    return fmt::format("the guest's hooks ran {} times for this freeze", now.count - before);
  }
  if (!now.failed.empty()) return "the guest's hook " + printable(now.failed.front()) + " failed";
  if (now.good.empty()) return "the guest has no hooks of applications";
  return now.thawed ? "" : "the guest's hooks have not ended";
}

}  // namespace

const char* name_of(Grade grade) { return kNames[static_cast<size_t>(grade)]; }

Result<Grade> parse_grade(std::string_view text) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (text == kNames[i]) return static_cast<Grade>(i);
  }
  return usage_error("'{}' is no grade of consistency; there are crash, fs and application", text);
}

GradeFound grade_of(Grade asked, const StandStill& still) {
  if (asked == Grade::kCrash) return {};
  if (!still.trouble.empty()) return {Grade::kCrash, still.trouble};
  if (!still.frozen || !still.thawed || !still.facts) return {Grade::kCrash, "it was not frozen"};
  if (*still.frozen == 0) {
    return {Grade::kCrash, "the guest has no file system that can be frozen"};
  }
  if (!still.thawed->complaint.empty()) return {Grade::kCrash, still.thawed->complaint};
  if (still.thawed->count < *still.frozen) {
    return {Grade::kCrash,
            fmt::format("{} of {} file systems were thawed before the disks were copied",
                        *still.frozen - still.thawed->count, *still.frozen)};
  }
  const std::string gap = application_gap(still);
  if (gap.empty()) return {Grade::kApplication, ""};
  return {Grade::kFileSystem, asked == Grade::kApplication ? gap : ""};
}

}  // namespace plumb
