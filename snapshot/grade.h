// Grade: how consistent the disks of a snapshot are, from what a freeze and a thaw have shown.
// Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "snapshot/guest_freezer.h"

namespace plumb {

enum class Grade : uint8_t {
  kCrash,        // as after a power cut: all disks of one instant, completed writes on them
  kFileSystem,   // file systems were frozen: they are clean
  kApplication,  // applications took part besides
};
// "crash", "fs", "application".
const char* name_of(Grade grade);
Result<Grade> parse_grade(std::string_view text);

// What is known of one guest's standstill.
struct StandStill {
  std::optional<GuestFacts> facts;  // none: it was not asked, or did not answer
  std::optional<unsigned> frozen;   // file systems; none: not frozen
  std::optional<Thawed> thawed;     // none: not, or not known
  std::optional<HookReport> hooks;  // after the thaw
  std::string trouble;              // why it did not go further; "": nothing went wrong
};

struct GradeFound {
  Grade grade = Grade::kCrash;
  std::string reason;  // why it is weaker than `asked`; "" when it is not
};
GradeFound grade_of(Grade asked, const StandStill& still);

}  // namespace plumb
