// The nearest known word to one that is not known, for error messages.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace plumb {

// Insertions, deletions and replacements of one character, and swaps of two neighbours, that turn
// `a` into `b` (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b);

// "; did you mean 'memory'?", or "" when nothing known is near.
std::string nearest_hint(std::string_view word, std::span<const std::string_view> known);

}  // namespace plumb
