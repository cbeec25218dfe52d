// A made-up /sys, /proc and /dev for tests of the resolver and of claims.
// tests/lab/cases/lun-*.sh run the same code over the real ones.
#pragma once

#include <fmt/core.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "rdm/lun_resolver.h"
#include "tests/temporary_folder.h"

namespace plumb {

class FakeSysfs {
 public:
  FakeSysfs() {
    write("proc/self/mountinfo", "");
    write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
    std::filesystem::create_directories(folder_.path() + "/sys/block");
    std::filesystem::create_directories(folder_.path() + "/dev");
  }

  SystemRoots roots() const {
    return {folder_.path() + "/sys", folder_.path() + "/proc", folder_.path() + "/dev"};
  }

  void write(const std::string& path, const std::string& content) {
    const std::filesystem::path full = folder_.path() + "/" + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << content;
  }

  // A disk with the attributes every disk has; 1 GiB, 512-byte blocks.
  void add_disk(const std::string& name, const std::string& number) {
    const std::string block = "sys/block/" + name;
    write(block + "/dev", number + "\n");
    write(block + "/size", "2097152\n");
    write(block + "/ro", "0\n");
    write(block + "/queue/logical_block_size", "512\n");
    write(block + "/queue/physical_block_size", "4096\n");
    write(block + "/queue/write_cache", "write through\n");
    write(block + "/queue/fua", "1\n");
    write(block + "/queue/max_hw_sectors_kb", "1024\n");
    write(block + "/queue/max_segments", "168\n");
  }

  void add_scsi(const std::string& name, const std::string& number, const std::string& wwid) {
    add_disk(name, number);
    const std::string device = "sys/block/" + name + "/device";
    write(device + "/wwid", wwid + "\n");
    write(device + "/vendor", "LIO-ORG \n");
    write(device + "/model", "data            \n");
    write(device + "/state", "running\n");
    write(device + "/type", "0\n");
    write(device + "/vpd_pg80", std::string("\x00\x80\x00\x06"
                                            "serial",
                                            10));
  }

  void add_multipath(const std::string& name, const std::string& number, const std::string& uuid,
                     const std::vector<std::string>& paths) {
    add_disk(name, number);
    write("sys/block/" + name + "/dm/uuid", uuid + "\n");
    for (const std::string& path : paths) {
      write(fmt::format("sys/block/{}/slaves/{}/dev", name, path), "");
      write(fmt::format("sys/block/{}/holders/{}/dm/uuid", path, name), uuid + "\n");
    }
  }

  void add_volume(const std::string& name, const std::string& number, const std::string& uuid) {
    add_disk(name, number);
    write("sys/block/" + name + "/dm/uuid", uuid + "\n");
    write("sys/block/" + name + "/dm/suspended", "0\n");
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace plumb
