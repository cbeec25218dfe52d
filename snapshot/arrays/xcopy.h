// The third mirror: the array copies a LUN onto a spare LUN by EXTENDED COPY, past the host. For
// any array that knows that command and nothing better. Not of one instant: finish() copies.
//
// A volume's id is its WWN, a snapshot's or clone's NAME@WWN with the WWN of its spare. Which spare
// holds what is in the state file. A spare that has never held anything of plumb's must begin with
// zeroes: so a LUN that was named by mistake is refused, not overwritten.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "rdm/lun_resolver.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct XcopyConfig {
  std::string name;
  std::vector<std::string> luns;    // LunId::text() of those that are copied
  std::vector<std::string> spares;  // of those copied to
  std::string state_path;
};

std::unique_ptr<ArrayProvider> make_xcopy_array(const XcopyConfig& config,
                                                const LunResolver& resolver = LunResolver());

}  // namespace plumb
