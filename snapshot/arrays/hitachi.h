// Hitachi VSP arrays, by the Configuration Manager REST API (docs.hitachivantara.com, "REST API
// Reference Guide"): Thin Image or ShadowImage.
//
// A snapshot is a pair whose secondary volume plumb makes in a pool; a clone is a volume that the
// array has copied in full. An LDEV's label has 32 bytes, too few for a name: which LDEV
// has which name is in the state file, durable before the array is told, and only an LDEV that is
// in it and carries its label is ever removed. The id of an LDEV is its number; of what plumb made
// NAME@NUMBER, because numbers are used again.
//
// prepare() makes the volumes and their pairs, in one group in consistency mode, and waits until
// they follow; take() is one request, which splits the group at one instant.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/host_luns.h"

namespace plumb {

// A host group of a port, with this host's initiators: "CL1-A,3".
struct HitachiHostGroup {
  std::string port;
  unsigned number = 0;
};

struct HitachiConfig {
  std::string name;
  std::string address;  // of the SVP, the controller, or a Configuration Manager
  uint16_t port = 443;
  std::string ca_file;     // "": the host's own
  std::string storage_id;  // of the array in a Configuration Manager; "": the address is the array
  std::string user;
  std::string password_file;
  bool shadow_image = false;  // snapshots are whole copies, by ShadowImage; else by Thin Image
  // Of removed snapshots by ShadowImage, to be brought up to date for the next.
  bool keep_mirrors = true;
  std::optional<unsigned> snapshot_pool;  // where Thin Image keeps differences; it must have one
  unsigned volume_pool = 0;               // where volumes are made
  std::vector<HitachiHostGroup> host_groups;
  std::string state_path;
  unsigned timeout_ms = 120'000;          // of a call, with its job
  unsigned take_timeout_ms = 10'000;      // of the split, while guests are frozen
  unsigned copy_timeout_ms = 21'600'000;  // of a clone or restore
};

// Errors: a password file that cannot be used. The array is not asked before it is needed.
Result<std::unique_ptr<ArrayProvider>> open_hitachi_array(const HitachiConfig& config,
                                                          HostLuns host = HostLuns());

}  // namespace plumb
