#include "snapshot/arrays/array_names.h"

#include <algorithm>
#include <set>

namespace plumb {

bool is_array_name(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= ArrayProvider::kMaxNameBytes && plain(name[0]) &&
         std::ranges::all_of(name, [plain](char c) { return plain(c) || c == '-'; });
}

Result<> check_array_name(const std::string& array, std::string_view name) {
  if (is_array_name(name)) return {};
  return usage_error(
      "array {}: '{}' is no name for a snapshot or volume; use a-z, 0-9 and '-', {} at most, and "
      "begin with a letter or digit",
      array, name, ArrayProvider::kMaxNameBytes);
}

Result<> check_requests(const std::string& array,
                        std::span<const ArrayProvider::SnapshotRequest> requests) {
  if (requests.empty()) return failed("array {}: no volume was named to take a snapshot of", array);
  std::set<std::string_view> names;
  std::set<std::string_view> volumes;
  for (const ArrayProvider::SnapshotRequest& request : requests) {
    TRY(check_array_name(array, request.name));
    if (!names.insert(request.name).second) return name_taken(array, request.name);
    if (!volumes.insert(request.volume.id).second) {
      return failed("array {}: the volume {} is there twice", array, request.volume.id);
    }
  }
  return {};
}

Error name_taken(const std::string& array, std::string_view name) {
  return failed("array {}: the name '{}' is taken; choose another, or remove what has it", array,
                name);
}

}  // namespace plumb
