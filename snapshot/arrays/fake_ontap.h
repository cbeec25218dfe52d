// An SVM of ONTAP for tests, over real TLS: it takes only requests of the published interface
// (docs.netapp.com, ONTAP 9.14.1 REST API reference), with the fields and queries that are there,
// and answers anything else with an error that the test sees in strays(). LUNs are files; what is
// mapped to the host's igroup is a device in a made-up /sys and /dev.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "rdm/fake_sysfs.h"
#include "snapshot/arrays/host_luns.h"
#include "snapshot/arrays/ontap.h"
#include "tests/fakes/https_server.h"

namespace plumb {

class FakeOntap {
 public:
  static constexpr const char* kUser = "plumb";
  static constexpr const char* kPassword = "s3cret words";

  FakeOntap();
  ~FakeOntap();

  OntapConfig config() const;
  // This host, as the array's LUNs are seen by it.
  HostLuns host() const;

  // A LUN of the administrator's, mapped to this host. Returns its WWN.
  std::string add_lun(const std::string& path, uint64_t size_bytes);
  std::string device_of(const std::string& wwn) const;
  void add_group(const std::string& name, const std::vector<std::string>& volumes);

  HttpsServer& server() { return server_; }
  // Requests outside the interface, with what is wrong with them.
  std::vector<std::string> strays() const;
  std::vector<std::string> lun_paths() const;
  std::string comment_of(const std::string& path) const;
  // Names of the snapshots of volumes and groups.
  std::vector<std::string> snapshot_names() const;

  struct Mood {
    bool jobs = false;        // what can be a job is one (HTTP 202)
    bool jobs_fail = false;   // and fails
    bool jobs_hang = false;   // and never ends
    bool full = false;        // no room for LUNs or snapshots
    size_t page_records = 2;  // in one piece of a list
    std::string password = kPassword;
  };
  void set_mood(const Mood& mood);

 private:
  struct FakeLun {
    std::string uuid, path, serial, os_type, comment;
    std::set<std::string> igroups;
  };
  struct FakeSnapshot {
    std::string uuid, name, comment, group;
    bool started = false;  // of a group, and not committed
  };
  using Json = nlohmann::json;
  using Handler = ServedAnswer (FakeOntap::*)(const ServedRequest&,
                                              const std::vector<std::string>&);
  struct Route {
    const char* method;
    const char* path;  // "{}" is a UUID
    std::set<std::string> query;
    std::set<std::string> body;  // dotted names of its members
    Handler handler;
  };
  static const std::vector<Route>& routes();

  ServedAnswer answer(const ServedRequest& request);
  ServedAnswer stray(const ServedRequest& request, const std::string& why);
  ServedAnswer refuse(unsigned status, const std::string& message) const;
  ServedAnswer done(unsigned status, const Json& body = Json::object());
  ServedAnswer page(const ServedRequest& request, std::vector<Json> records);

  using Ids = std::vector<std::string>;
  ServedAnswer list_luns(const ServedRequest& request, const Ids& ids);
  ServedAnswer get_lun(const ServedRequest& request, const Ids& ids);
  ServedAnswer post_lun(const ServedRequest& request, const Ids& ids);
  ServedAnswer patch_lun(const ServedRequest& request, const Ids& ids);
  ServedAnswer delete_lun(const ServedRequest& request, const Ids& ids);
  ServedAnswer list_igroups(const ServedRequest& request, const Ids& ids);
  ServedAnswer post_map(const ServedRequest& request, const Ids& ids);
  ServedAnswer delete_map(const ServedRequest& request, const Ids& ids);
  ServedAnswer list_volumes(const ServedRequest& request, const Ids& ids);
  ServedAnswer list_snapshots(const ServedRequest& request, const Ids& ids);
  ServedAnswer post_snapshot(const ServedRequest& request, const Ids& ids);
  ServedAnswer delete_snapshot(const ServedRequest& request, const Ids& ids);
  ServedAnswer list_groups(const ServedRequest& request, const Ids& ids);
  ServedAnswer list_group_snapshots(const ServedRequest& request, const Ids& ids);
  ServedAnswer post_group_snapshot(const ServedRequest& request, const Ids& ids);
  ServedAnswer patch_group_snapshot(const ServedRequest& request, const Ids& ids);
  ServedAnswer delete_group_snapshot(const ServedRequest& request, const Ids& ids);
  ServedAnswer get_job(const ServedRequest& request, const Ids& ids);

  std::string new_uuid();
  FakeLun* lun_with(const std::string& uuid);
  FakeLun* lun_at(const std::string& path);
  std::string volume_of(const std::string& path) const;
  std::string file_of(const FakeLun& lun) const { return files_.path() + "/" + lun.uuid; }
  // The file with the content of a LUN's path, live or in a snapshot; "" when there is none.
  std::string content_of(const std::string& path);
  Json describe(const FakeLun& lun, bool maps) const;
  void keep(const FakeSnapshot& snapshot, const std::string& volume);
  void drop(const std::string& snapshot_uuid, const std::string& volume);
  void show(const FakeLun& lun);
  void hide(const FakeLun& lun);
  std::string device_name(const FakeLun& lun) const;

  Mood mood_;
  TemporaryFolder files_;
  FakeSysfs sysfs_;
  unsigned last_number_ = 0;
  std::map<std::string, std::string> volumes_;  // name → UUID
  std::map<std::string, std::pair<std::string, std::vector<std::string>>>
      groups_;  // UUID → name, volumes
  std::vector<FakeLun> luns_;
  std::map<std::string, std::vector<FakeSnapshot>> snapshots_;  // by the UUID of volume or group
  std::string igroup_uuid_;
  std::map<std::string, unsigned> job_looks_;
  std::vector<std::string> strays_;
  HttpsServer server_;
};

}  // namespace plumb
