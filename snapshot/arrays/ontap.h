// NetApp ONTAP 9.11 and later, by its REST interface (docs.netapp.com, "ONTAP REST API reference"):
// LUNs in FlexVols of one SVM.
//
// A snapshot, and a clone, is a LUN clone beside its LUN: it shares the LUN's blocks, and each can
// be removed first. It is called /vol/VOLUME/plumb.ARRAY.NAME, and its comment says what it is
// (OntapMark); only a LUN with both is ever removed. Ids are the LUNs' UUIDs.
//
// prepare() makes the clones' LUNs, still empty: names, room and rights are seen before anything is
// frozen, and are found by name after a crash. take() clones one LUN into its own; of several in
// one FlexVol it takes the volume's snapshot, of several FlexVols a two-phase snapshot of the
// consistency group that has them all; from these finish() makes the clones, and removes them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/https_client.h"
#include "base/result.h"
#include "snapshot/arrays/array_provider.h"
#include "snapshot/arrays/host_luns.h"

namespace plumb {

struct OntapConfig {
  std::string name;
  std::string address;  // of the SVM's or the cluster's management interface
  uint16_t port = 443;
  std::string ca_file;  // "": the host's own
  std::string user;
  std::string password_file;
  std::string svm;
  std::vector<std::string>
      volumes;                    // FlexVols whose LUNs are the array's; new ones go to the first
  std::string igroup;             // of this host
  unsigned timeout_ms = 120'000;  // of a call, with its job
  unsigned take_timeout_ms = 10'000;  // of all calls while guests are frozen
};

// Errors: a password file that cannot be used. The array is not asked before it is needed.
Result<std::unique_ptr<ArrayProvider>> open_ontap_array(const OntapConfig& config,
                                                        HostLuns host = HostLuns());

}  // namespace plumb
