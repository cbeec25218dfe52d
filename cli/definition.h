// VmDefinition: what a VM consists of, as an administrator writes it in TOML or as flags.
// docs/vm-definition.md lists the keys; the tables in definition.cc are their one source.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

// How long an I/O thread looks for a guest's next request, or a completion, before it sleeps;
// docs/decisions/0007-polling.md tells why.
inline constexpr unsigned kDefaultPollUs = 100;

struct DiskDefinition {
  std::string id;                      // unique in the VM; the default serial
  std::string image;                   // a raw image file, or
  std::string lun;                     // a LUN's identity, or
  std::string rdm;                     // a mapping file, which names a LUN
  std::string serial;                  // "" takes the id
  std::string bus = "virtio-blk";      // or "scsi": a target of the VM's virtio-scsi host
  std::string cache = "writethrough";  // or "writeback"
  std::string engine = "auto";         // or "io_uring", "libaio"
  bool read_only = false;
  bool discard = true;
  bool allow_weak_identity = false;
  std::string on_error;          // "report" or "pause"; "" is filled in: report for images
  unsigned path_timeout_s = 0;   // of a LUN that pauses the VM: then errors are reported; 0: never
  uint64_t iops = 0;             // limit; 0: none
  uint64_t bandwidth_bytes = 0;  // limit, of a second; 0: none
  unsigned burst_seconds = 1;    // what quiet time is worth, against the limits
};

struct NetDefinition {
  std::string tap;  // an existing tap interface
  std::string mac;  // "" makes one from the VM's name and the interface's position
};

struct VmDefinition {
  std::string name;
  std::string uuid;           // what the guest sees as its own; "" is derived from the name
  std::string generation_id;  // a UUID that each life after a copy has new; "" is derived from uuid
  uint64_t memory_bytes = 512ULL << 20U;
  bool huge_pages = false;
  bool registered_memory = false;  // with io_uring, for the disks: all of it pinned
  unsigned vcpus = 1;
  std::string kernel;
  std::string initrd;
  std::string cmdline = "console=ttyS0";
  std::string console = "serial";     // or "virtio": which device the console is connected to
  std::string on_reboot = "restart";  // or "exit"
  std::vector<int> vcpu_cpus;         // host CPUs of the vCPUs, in turn; empty: anywhere
  std::vector<int> io_thread_cpus;    // where I/O threads may run; empty: anywhere
  unsigned io_poll_us = kDefaultPollUs;
  std::vector<DiskDefinition> disks;
  std::vector<NetDefinition> nets;
};

// Reads a definition file's text over `definition`. Errors are of kind kUsage and name the line or
// key; an unknown key is answered with the nearest known one. Pure.
Result<> read_toml(std::string_view text, std::string_view file_name, VmDefinition& definition);

// The definition as a file that read_toml() reads; what is as usual is left out. Pure.
std::string print_toml(const VmDefinition& definition);

// Sets one VM key from a flag: "memory", "512M". Pure.
Result<> set_key(VmDefinition& definition, std::string_view key, std::string_view value);

// What a flag of a disk begins with; its own name is --disk, --lun or --rdm.
enum class DiskFlag : uint8_t { kImage, kLun, kRdm };

// Reads a flag such as `root.img,id=root,read-only` (image), `naa.…,serial=S` (lun), `data.rdm`,
// `tap=t0,mac=…`.
Result<DiskDefinition> parse_disk_flag(std::string_view text, DiskFlag flag);
Result<NetDefinition> parse_net_flag(std::string_view text);

// Fills in what was left out (ids, serials) and refuses what cannot be: no name or kernel, memory
// or vCPUs out of range, two disks with one id or LUN, a disk without exactly one of image, lun and
// rdm. Pure.
Result<> complete(VmDefinition& definition);

// The same for one disk, whose id is given. Pure.
Result<> complete_disk(DiskDefinition& disk);

// Sets one disk key from a flag: "cache", "writeback". Pure.
Result<> set_disk_key(DiskDefinition& disk, std::string_view key, std::string_view value);

// For the VM's process and its control API.
nlohmann::json to_json(const VmDefinition& definition);
Result<VmDefinition> from_json(const nlohmann::json& json);
nlohmann::json disk_to_json(const DiskDefinition& disk);
Result<DiskDefinition> disk_from_json(const nlohmann::json& json);

// The keys of the VM's and of a disk's table with their help, for flags.
struct KeyHelp {
  std::string_view key;
  std::string_view help;
  bool flag = false;  // takes no value
};
std::vector<KeyHelp> vm_keys();
std::vector<KeyHelp> disk_keys();

}  // namespace plumb
