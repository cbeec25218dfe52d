// How the LUNs that an array maps come to this host, and leave it before they are unmapped: a LUN
// that is unmapped under its device leaves paths that fail, and later another LUN in its place.
#pragma once

#include <string>

#include "base/result.h"
#include "rdm/lun_resolver.h"

namespace plumb {

struct HostLunsConfig {
  SystemRoots roots;
  std::string multipath_program = "/usr/sbin/multipath";
  unsigned appear_timeout_ms = 30'000;
  // A LUN that has just come may not have all its paths, nor its multipath map, yet.
  unsigned settle_ms = 1'000;
};

class HostLuns {
 public:
  explicit HostLuns(HostLunsConfig config = {});

  // The device of a LUN that the array has mapped to this host: looks for it, rescans all SCSI
  // hosts, and waits for it. Blocks.
  Result<std::string> appear(const LunId& id) const;

  // Takes the LUN's devices away, also its multipath map. What is not there is fine; kLocked: it is
  // mounted, held or opened exclusively, and all of it stays.
  Result<> vanish(const LunId& id) const;

  // The array has changed the LUN's content: what this host has in memory of it is old.
  void forget_content(const LunId& id) const;

 private:
  const HostLunsConfig config_;
  const LunResolver resolver_;
};

}  // namespace plumb
