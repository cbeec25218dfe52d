// Dell EqualLogic PS groups, by their command line over SSH: the program ssh(1), with a key, and a
// host key that is known already; open-iscsi brings what is mapped to this host.
//
// A snapshot is the group's own; a clone a full copy. Names in the group are short: which has which
// name is in the state file, durable before the group is told. A volume's id is its name in the
// group; of what plumb made NAME@LABEL.
//
// Several volumes are taken one after the other in one session, so of one instant only while nobody
// writes to them. A group may delete old snapshots when it lacks room: one that has gone is listed
// as not whole.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/host_luns.h"

namespace plumb {

struct EqualLogicConfig {
  std::string name;
  std::string address;  // of the group
  uint16_t port = 22;
  std::string user;
  std::string key_file;
  std::string known_hosts;                  // "": the user's own
  std::string group;                        // its name, as in the prompt: "group-0"
  std::string pool = "default";             // where volumes are made
  std::string initiator;                    // this host's iSCSI name
  std::map<std::string, std::string> luns;  // LunId::text() → the volume's name in the group
  std::string state_path;
  unsigned timeout_ms = 120'000;      // of a session
  unsigned take_timeout_ms = 10'000;  // of the session while guests are frozen
  std::string ssh_program = "/usr/bin/ssh";
  std::string iscsi_program = "/usr/sbin/iscsiadm";
  SystemRoots roots;
};

// The group is not asked before it is needed.
std::unique_ptr<ArrayProvider> make_equallogic_array(const EqualLogicConfig& config,
                                                     HostLuns host = HostLuns());

}  // namespace plumb
