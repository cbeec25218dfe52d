#include "snapshot/arrays/thin_state.h"

#include <nlohmann/json.hpp>
#include <sstream>

namespace plumb {
// Where the library looks for them.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ThinEntry, snapshot, thin_id, origin, size_bytes, whole)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ThinRestore, thin_id, size_bytes, snapshot)

namespace {

// A pool whose metadata is full cannot be repaired before it is larger: not to the last block.
constexpr uint64_t kMetadataReserve = 32;  // one block of so many

// "12/34"
bool read_fraction(std::istringstream& from, uint64_t& used, uint64_t& all) {
  char slash = 0;
  return from >> used >> slash >> all && slash == '/' && used <= all;
}

}  // namespace

Result<ThinState> thin_state_from(const nlohmann::json& json) {
  ThinState state;
  try {
    state.next_id = json.value("next_id", state.next_id);
    state.entries = json.value("entries", state.entries);
    state.restores = json.value("restores", state.restores);
  } catch (const nlohmann::json::exception& error) {
    return failed("it is damaged: {}", error.what());
  }
  return state;
}

void store_in(nlohmann::json& json, const ThinState& state) {
  json["next_id"] = state.next_id;
  json["entries"] = state.entries;
  json["restores"] = state.restores;
}

Result<ThinPoolStatus> parse_thin_pool_status(const std::string& words) {
  if (words.starts_with("Fail") || words.starts_with("Error")) {
    return failed(
        "the pool has failed; look at the kernel's log, and run thin_check on its "
        "metadata");
  }
  std::istringstream from(words);
  ThinPoolStatus status;
  uint64_t transaction = 0;
  std::string held_root;
  const bool read = from >> transaction &&
                    read_fraction(from, status.used_metadata_blocks, status.metadata_blocks) &&
                    read_fraction(from, status.used_data_blocks, status.data_blocks) &&
                    from >> held_root >> status.mode;
  if (!read || status.data_blocks == 0 || status.metadata_blocks == 0) {
    return failed("the status '{}' is not that of a thin pool", words);
  }
  std::string word;
  while (from >> word) status.needs_check = status.needs_check || word == "needs_check";
  return status;
}

std::string trouble_of(const ThinPoolStatus& status) {
  if (status.needs_check) {
    return "its metadata needs a check: deactivate the pool and run thin_repair on it";
  }
  const uint64_t free_metadata = status.metadata_blocks - status.used_metadata_blocks;
  if (free_metadata < status.metadata_blocks / kMetadataReserve || free_metadata == 0) {
    return fmt::format(
        "its metadata is full ({} of {} blocks): enlarge the metadata device, or "
        "remove snapshots",
        status.used_metadata_blocks, status.metadata_blocks);
  }
  if (status.mode == "out_of_data_space" || status.used_data_blocks == status.data_blocks) {
    return fmt::format("it is full ({} blocks): enlarge the data device, or remove snapshots",
                       status.data_blocks);
  }
  if (status.mode != "rw") return fmt::format("it is in the mode '{}'", status.mode);
  return {};
}

std::optional<ThinTable> parse_thin_table(const std::string& words) {
  std::istringstream from(words);
  ThinTable table;
  if (from >> table.pool >> table.thin_id) return table;
  return std::nullopt;
}

}  // namespace plumb
