// A device-mapper with one thin pool, made of files, for tests of dm_thin.h: it outlives a process
// that crashes, as the kernel does.
#pragma once

#include <sys/sysmacros.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "snapshot/arrays/device_mapper.h"
#include "tests/temporary_folder.h"

namespace plumb {

// Thin ids are files in thin/, devices symbolic links to them in devices/, or to nowhere with the
// table "error". A device that is suspended has a file in suspended/.
class FakeThinHost {
 public:
  FakeThinHost() {
    for (const char* folder : {"thin", "devices", "suspended"}) {
      std::filesystem::create_directory(path(folder));
    }
  }
  std::string path(const std::string& below) const { return folder_.path() + "/" + below; }

  void add_thin(const std::string& id, uint64_t size_bytes) const {
    std::ofstream(path("thin/" + id)).close();
    std::filesystem::resize_file(path("thin/" + id), size_bytes);
  }
  void add_device(const std::string& name, const std::string& id) const {
    std::filesystem::create_symlink(path("thin/" + id), path("devices/" + name));
  }
  bool has_thin(const std::string& id) const { return std::filesystem::exists(path("thin/" + id)); }
  bool suspended(const std::string& name) const {
    return std::filesystem::exists(path("suspended/" + name));
  }

  std::string pool_uuid;
  std::map<std::string, std::string> uuids;  // of devices that were created with one
  std::string pool_status = "1 10/1024 100/10000 - rw discard_passdown queue_if_no_space - 1024";
  std::vector<std::string> log;  // of what was done, in its order
  // Asked before each request that is logged; an errno refuses it.
  std::function<int(const std::string&)> before = [](const std::string&) { return 0; };

 private:
  TemporaryFolder folder_;
};

class FakeDeviceMapper final : public DeviceMapper {
 public:
  explicit FakeDeviceMapper(FakeThinHost& host) : host_(host) {}

  Result<std::optional<DmInfo>> info(const std::string& name) override {
    if (name == "pool0") return std::optional<DmInfo>({::makedev(253, 0), host_.pool_uuid, 1});
    if (!is_device(name)) return std::optional<DmInfo>();
    const auto uuid = host_.uuids.find(name);
    return std::optional<DmInfo>({::makedev(253, 1), uuid == host_.uuids.end() ? "" : uuid->second,
                                  0, host_.suspended(name)});
  }

  Result<DmTarget> table(const std::string& name) override {
    if (name == "pool0") return DmTarget{1, "thin-pool", "253:8 253:9 128 0 0"};
    const std::string thin = host_.path("devices/" + name);
    if (!std::filesystem::exists(thin)) return DmTarget{1, "error", ""};
    const std::string id = std::filesystem::read_symlink(thin).filename();
    return DmTarget{std::filesystem::file_size(thin) / 512, "thin", "253:0 " + id};
  }

  Result<std::string> status(const std::string&) override { return host_.pool_status; }

  Result<> message(const std::string&, const std::string& text) override {
    TRY(done(text));
    std::istringstream words(text);
    std::string action;
    std::string id;
    std::string from;
    words >> action >> id >> from;
    const std::string thin = host_.path("thin/" + id);
    if (action == "delete") return std::filesystem::remove(thin) ? Result<>() : no(ENODATA, text);
    if (std::filesystem::exists(thin)) return no(EEXIST, text);
    if (action == "create_thin") {
      host_.add_thin(id, 0);
    } else if (!host_.has_thin(from)) {
      return no(ENODATA, text);
    } else {
      std::filesystem::copy_file(host_.path("thin/" + from), thin);
    }
    return {};
  }

  Result<> suspend(const std::string& name) override {
    TRY(done("suspend " + name));
    std::ofstream(host_.path("suspended/" + name)).close();
    return {};
  }
  Result<> resume(const std::string& name) override {
    TRY(done("resume " + name));
    std::filesystem::remove(host_.path("suspended/" + name));
    return {};
  }

  Result<> create(const std::string& name, const std::string& uuid, const DmTarget& target,
                  bool) override {
    TRY(done("create " + name));
    show(name, target);
    host_.uuids[name] = uuid;
    return {};
  }
  Result<> reload(const std::string& name, const DmTarget& target) override {
    TRY(done("reload " + name + " " + target.type));
    std::filesystem::remove(host_.path("devices/" + name));
    show(name, target);
    return {};
  }
  Result<> remove(const std::string& name) override {
    TRY(done("remove " + name));
    std::filesystem::remove(host_.path("devices/" + name));
    return {};
  }

  std::string path_of(const std::string& name) const override {
    return host_.path("devices/" + name);
  }
  std::optional<std::string> name_of(const std::string& path) const override {
    if (!path.starts_with(host_.path("devices/"))) return std::nullopt;
    return std::filesystem::path(path).filename().string();
  }

 private:
  bool is_device(const std::string& name) const {
    return std::filesystem::is_symlink(host_.path("devices/" + name));
  }
  static Error no(int error, const std::string& what) { return os_error(error, "fake: {}", what); }
  Result<> done(const std::string& what) const {
    host_.log.push_back(what);
    const int error = host_.before(what);
    if (error != 0) return no(error, what);
    return {};
  }
  void show(const std::string& name, const DmTarget& target) const {
    const std::string id = target.words.substr(target.words.find(' ') + 1);
    if (target.type == "error") {
      std::filesystem::create_symlink("/nowhere", host_.path("devices/" + name));
      return;
    }
    // A thin device is as large as its table says, whatever its id was before.
    std::filesystem::resize_file(host_.path("thin/" + id), target.sectors * 512);
    host_.add_device(name, id);
  }

  FakeThinHost& host_;
};

}  // namespace plumb
