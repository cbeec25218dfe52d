// MappingFile: a small text file that stands for a LUN, so that a VM names a file and the LUN is
// found by the identity recorded in it. docs/formats/rdm-mapping.md describes the format.
//
// The file holds no block of the LUN: making, replacing or deleting it never touches the LUN.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rdm/lun_resolver.h"

namespace plumb {

inline constexpr size_t kMaxMappingBytes = 4096;

// What reaches the LUN: the reads and writes of a generic disk, or the guest's SCSI commands.
enum class MappingMode : uint8_t { kVirtual, kPhysical };

const char* mode_name(MappingMode mode);
// "virtual" or "physical"; anything else is a usage error.
Result<MappingMode> parse_mapping_mode(std::string_view text);

struct MappingFile {
  std::string uuid;  // of the mapping itself
  MappingMode mode = MappingMode::kVirtual;
  LunId wwid;
  // What the LUN was like when it was mapped; "" where it did not tell.
  std::string serial;
  std::string vendor;
  std::string model;
  uint64_t size_bytes = 0;
  uint32_t logical_block_size = 0;
  bool shared = false;  // several VMs may have it at once
  bool allow_weak_identity = false;
};

// Reads a mapping's text; `path` is for errors. Strict: what is accepted is what print_mapping()
// prints, byte for byte. Errors, each one sentence: too long, NUL bytes, no mapping file, another
// version, end missing, wrong checksum, unknown, repeated or missing key, a value that cannot be,
// another order or spacing. Pure.
Result<MappingFile> parse_mapping(std::string_view text, const std::string& path);
std::string print_mapping(const MappingFile& mapping);

struct MappingOptions {
  MappingMode mode = MappingMode::kVirtual;
  bool shared = false;
  bool allow_weak_identity = false;
};

// A new mapping, with its own UUID, of a LUN as it is now. Errors: a weak identity that is not
// allowed; no medium.
Result<MappingFile> make_mapping(const Lun& lun, const MappingOptions& options);

// What of the LUN found by the mapping's identity speaks against its being the LUN mapped, or
// against a guest's using it: smaller, other blocks, another serial number. A sentence each.
std::vector<std::string> differences(const MappingFile& mapping, const Lun& lun);

// Makes the file, whole or not at all, readable for its owner only. What exists is left as it is,
// unless `replace` is set and it is a mapping that no VM has open.
Result<> write_mapping(const std::string& path, const MappingFile& mapping, bool replace = false);

// Errors: not there, no regular file, and those of parse_mapping().
Result<MappingFile> read_mapping(const std::string& path);

struct OpenMapping {
  MappingFile mapping;
  UniqueFd lock;
};

// Reads a mapping for use, and locks its file as long as `lock` is open: against every other use,
// or, when it is shared, against exclusive ones. Error kLocked names the holder.
Result<OpenMapping> open_mapping(const std::string& path);

}  // namespace plumb
