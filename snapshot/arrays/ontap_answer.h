// What ONTAP answers, read strictly, and what plumb writes into the comments of its LUNs. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

struct OntapLun {
  std::string uuid;
  std::string path;  // "/vol/VOLUME/…"
  std::string volume_uuid;
  std::string volume;
  std::string wwn;  // LunId::text(); "" without a serial number of twelve bytes
  std::string os_type;
  std::string comment;
  uint64_t size_bytes = 0;
  std::vector<std::string> igroups;  // UUIDs of those it is mapped to, if they were asked for

  // The last part of its path.
  std::string base_name() const { return path.substr(path.rfind('/') + 1); }
};

// A piece of a list: the next piece has an address of its own.
template <typename T>
struct OntapPage {
  std::vector<T> records;
  std::string next;  // "/api/…"; "" after the last
};

struct OntapVolume {
  std::string uuid;
  std::string name;
  std::string state;
  uint64_t size_bytes = 0;
  uint64_t available_bytes = 0;
};

struct OntapGroup {
  std::string uuid;
  std::string name;
  std::vector<std::string> volumes;  // UUIDs
};

// Anything of which only name and UUID matter.
struct OntapName {
  std::string uuid;
  std::string name;
  std::string comment;
};

struct OntapJob {
  enum class State : uint8_t { kRunning, kDone, kFailed };
  State state = State::kRunning;
  std::string message;
};

namespace ontap_answer {
Result<OntapLun> lun(std::string_view text);
Result<OntapPage<OntapLun>> luns(std::string_view text);
Result<OntapPage<OntapVolume>> volumes(std::string_view text);
Result<OntapPage<OntapGroup>> groups(std::string_view text);
Result<OntapPage<OntapName>> names(std::string_view text);
Result<OntapJob> job(std::string_view text);
// The UUID of the job that an answer leaves to be waited for; "" when it has none.
Result<std::string> job_of(std::string_view text);
// The array's own words for what went wrong; "" when it has none.
std::string reason(std::string_view text);
}  // namespace ontap_answer

// What a LUN of plumb's is: the comment that it carries. ONTAP allows 254 bytes.
struct OntapMark {
  std::string array;
  bool snapshot = false;  // else a volume
  std::string of;         // of a snapshot: the UUID of its LUN
  bool partial = false;   // take() or finish() was cut short
  std::string take;       // of a partial one: the volumes' snapshot that it is to come from, or ""
  std::string group;      // the consistency group of that snapshot, or ""

  std::string text() const;
  static std::optional<OntapMark> parse(std::string_view comment);
};

// "/vol/V/q/lun" in the snapshot s is "/vol/V/.snapshot/s/q/lun".
std::string ontap_path_in_snapshot(const std::string& path, const std::string& snapshot);

// The identity that a LUN with this serial number shows to hosts; "" for one that has not 12 bytes.
std::string ontap_wwn(std::string_view serial);

// Of 8-4-4-4-12 digits in hex: fit to be a part of an address.
bool is_ontap_uuid(std::string_view text);

}  // namespace plumb
