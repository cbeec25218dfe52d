// A Hitachi array for tests, over real TLS: it takes only requests of the published interface
// (docs.hitachivantara.com, REST API Reference Guide MK-98RD9014-17), in a session, with the
// members and queries that are there, and answers anything else with an error that the test sees in
// strays(). LDEVs are files; what has a path to the host's group is a device in a made-up /sys.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "rdm/fake_sysfs.h"
#include "snapshot/arrays/hitachi.h"
#include "snapshot/arrays/host_luns.h"
#include "tests/fakes/https_server.h"

namespace plumb {

class FakeHitachi {
 public:
  static constexpr const char* kUser = "plumb";
  static constexpr const char* kPassword = "s3cret words";

  FakeHitachi();

  HitachiConfig config() const;
  // This host, as the array's LDEVs are seen by it.
  HostLuns host() const;

  // An LDEV of the administrator's, with a path to this host. Returns its WWN.
  std::string add_ldev(uint64_t number, uint64_t size_bytes);
  std::string device_of(uint64_t number) const;

  HttpsServer& server() { return server_; }
  std::vector<std::string> strays() const;
  std::vector<uint64_t> ldevs() const;
  size_t pairs() const;
  // How often a mirror was filled as a whole, and brought up to date.
  size_t whole_copies() const;
  size_t resyncs() const;
  size_t sessions() const;
  void set_label(uint64_t number, const std::string& label);

  struct Mood {
    bool slow_jobs = false;       // an answer comes before its job ends
    bool jobs_fail = false;       // splits fail
    bool jobs_hang = false;       // they never end
    bool full = false;            // no room in the pools
    bool pairs_fail = false;      // new pairs become PSUE
    bool no_consistency = false;  // copy groups get no consistency group
    bool sessions_end = false;    // each session ends after one request
    std::string password = kPassword;
  };
  void set_mood(const Mood& mood);

 private:
  struct Path {
    std::string port;
    uint64_t group = 0, lun = 0;
  };
  struct Ldev {
    std::string label;
    std::vector<Path> paths;
  };
  struct Pair {
    std::string group, status;
    uint64_t primary = 0, secondary = 0, mirror_unit = 0;
    std::string next;  // its status after it was looked at; "" is gone
    // Of ShadowImage: a mirror, with a name in its copy group; it follows until it is split.
    std::string name;
    uint64_t consistency_group = 0;
  };
  using Json = nlohmann::json;
  // What a "{}" of a route stands for.
  using Words = std::vector<std::string>;
  using Handler = ServedAnswer (FakeHitachi::*)(const ServedRequest&, const Words&);
  struct Route {
    const char* method;
    const char* path;
    std::set<std::string> query;
    std::set<std::string> body;
    Handler handler;
  };
  static const std::vector<Route>& routes();

  ServedAnswer answer(const ServedRequest& request);
  ServedAnswer route(const ServedRequest& request);
  ServedAnswer stray(const ServedRequest& request, const std::string& why);
  ServedAnswer refuse(unsigned status, const std::string& message) const;
  // A job that has ended, or will.
  ServedAnswer job(const ServedRequest& request, bool fails = false);

  ServedAnswer post_session(const ServedRequest& request);
  ServedAnswer delete_session(const ServedRequest& request, const Words& words);
  ServedAnswer get_job(const ServedRequest& request, const Words& words);
  ServedAnswer list_ldevs(const ServedRequest& request, const Words& words);
  ServedAnswer get_ldev(const ServedRequest& request, const Words& words);
  ServedAnswer post_ldev(const ServedRequest& request, const Words& words);
  ServedAnswer patch_ldev(const ServedRequest& request, const Words& words);
  ServedAnswer delete_ldev(const ServedRequest& request, const Words& words);
  ServedAnswer post_lun(const ServedRequest& request, const Words& words);
  ServedAnswer delete_lun(const ServedRequest& request, const Words& words);
  ServedAnswer list_pairs(const ServedRequest& request, const Words& words);
  ServedAnswer post_pair(const ServedRequest& request, const Words& words);
  ServedAnswer delete_pair(const ServedRequest& request, const Words& words);
  ServedAnswer restore_pair(const ServedRequest& request, const Words& words);
  ServedAnswer split_group(const ServedRequest& request, const Words& words);
  // ShadowImage.
  ServedAnswer list_mirrors(const ServedRequest& request, const Words& words);
  ServedAnswer post_mirror(const ServedRequest& request, const Words& words);
  ServedAnswer delete_mirror(const ServedRequest& request, const Words& words);
  ServedAnswer restore_mirror(const ServedRequest& request, const Words& words);
  ServedAnswer split_mirror(const ServedRequest& request, const Words& words);
  ServedAnswer split_mirrors(const ServedRequest& request, const Words& words);
  ServedAnswer resync_mirrors(const ServedRequest& request, const Words& words);
  ServedAnswer get_pool(const ServedRequest& request, const Words& words);

  std::string file_of(uint64_t number) const {
    return files_.path() + "/" + std::to_string(number);
  }
  void copy(uint64_t from, uint64_t to) const;
  void show(uint64_t number);
  Pair* pair_of(const Words& words);
  Pair* mirror_of(const Words& words);
  ServedAnswer split(const ServedRequest& request, Pair& pair);

  Mood mood_;
  TemporaryFolder files_;
  FakeSysfs sysfs_;
  std::map<uint64_t, Ldev> ldevs_;
  std::vector<Pair> pairs_;
  std::map<std::string, uint64_t> tokens_;  // → session
  uint64_t last_session_ = 0;
  uint64_t last_job_ = 0;
  uint64_t last_mirror_unit_ = 0;
  uint64_t last_consistency_group_ = 0;
  uint64_t last_lun_ = 0;
  size_t whole_copies_ = 0;
  size_t resyncs_ = 0;
  std::map<uint64_t, std::pair<unsigned, bool>> jobs_;  // → looks, fails
  std::vector<std::string> strays_;
  HttpsServer server_;
};

}  // namespace plumb
