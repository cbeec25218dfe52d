#include "cli/definition.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "base/cpu_list.h"
#include "base/nearest.h"
#include "base/size.h"
#include "base/toml_file.h"
#include "base/uuid.h"
#include "blockdev/io_thread.h"
#include "rdm/lun_id.h"
#include "vmm/virtio/tap.h"
#include "vmm/vm.h"

namespace plumb {
namespace {

constexpr size_t kMaxDisks = 24;  // slots of PCI bus 0 that disks may take
constexpr size_t kMaxNets = 4;
constexpr uint64_t kMinMemoryBytes = 16 * kMiB;
constexpr uint64_t kMaxMemoryBytes = 1024 * kGiB;
constexpr uint64_t kMemoryGranule = 2 * kMiB;  // so that huge pages fit
constexpr size_t kMaxSerialBytes = 20;         // virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID
constexpr size_t kMaxNameBytes = 64;
constexpr unsigned kMaxPollUs = 1000;  // more would be a CPU spent on one disk
constexpr uint64_t kMaxIops = 1'000'000'000;
constexpr uint64_t kMinBandwidth = 64 * kKiB;  // below, a guest's kernel takes its disk for dead
constexpr unsigned kMaxBurstSeconds = 3600;
constexpr unsigned kMaxPathTimeoutSeconds = 86400;
// The name space of VMs' names, for UUIDs of version 5; never to change, or guests' UUIDs would.
constexpr std::string_view kVmNameSpace = "c57fff79-8ea3-4713-8466-98cf6f8d3b91";

Result<bool> parse_bool(std::string_view text) {
  if (text == "true" || text == "on" || text == "yes" || text.empty()) return true;
  if (text == "false" || text == "off" || text == "no") return false;
  return usage_error("'{}' is neither true nor false", text);
}

Result<std::string> one_of(std::string_view text, std::span<const std::string_view> words) {
  if (std::find(words.begin(), words.end(), text) != words.end()) return std::string(text);
  std::string all;
  for (const std::string_view word : words) all += (all.empty() ? "" : " or ") + std::string(word);
  return usage_error("'{}' is not known; write {}", text, all);
}

// A name that is safe as a folder and in messages.
Result<std::string> parse_name(std::string_view text) {
  const bool good = !text.empty() && text.size() <= kMaxNameBytes && text[0] != '.' &&
                    text[0] != '-' && std::all_of(text.begin(), text.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
                    });
  if (good) return std::string(text);
  return usage_error("'{}' is not a name; use letters, digits, '-', '_' and '.', {} at most", text,
                     kMaxNameBytes);
}

// A whole number from `least` to `most`, called `what` in the error.
template <typename T>
Result<T> parse_number(std::string_view text, std::string_view what, T least, T most) {
  T number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{} || end != text.data() + text.size() || number < least ||
      number > most) {
    return usage_error("'{}' is not a number of {} from {} to {}", text, what, least, most);
  }
  return number;
}

Result<unsigned> parse_vcpus(std::string_view text) {
  return parse_number<unsigned>(text, "vCPUs", 1, kMaxVcpus);
}
Result<unsigned> parse_poll_us(std::string_view text) {
  return parse_number<unsigned>(text, "microseconds", 0, kMaxPollUs);
}
Result<uint64_t> parse_iops(std::string_view text) {
  return parse_number<uint64_t>(text, "requests a second", 1, kMaxIops);
}
Result<unsigned> parse_burst(std::string_view text) {
  return parse_number<unsigned>(text, "seconds", 1, kMaxBurstSeconds);
}
Result<unsigned> parse_path_timeout(std::string_view text) {
  return parse_number<unsigned>(text, "seconds", 1, kMaxPathTimeoutSeconds);
}
Result<uint64_t> parse_bandwidth(std::string_view text) {
  const uint64_t bytes = TRY(parse_size(text));
  if (bytes >= kMinBandwidth) return bytes;
  return usage_error("a bandwidth of '{}' is less than {} a second", text,
                     format_size(kMinBandwidth));
}

Result<uint64_t> parse_memory(std::string_view text) {
  const uint64_t bytes = TRY(parse_size(text));
  if (bytes < kMinMemoryBytes || bytes > kMaxMemoryBytes || bytes % kMemoryGranule != 0) {
    return usage_error("memory of '{}' is out of range; give {} to {}, a multiple of {}", text,
                       format_size(kMinMemoryBytes), format_size(kMaxMemoryBytes),
                       format_size(kMemoryGranule));
  }
  return bytes;
}

template <typename T>
struct Key {
  std::string_view name;
  std::string_view help;
  bool flag;  // a switch: its bare name means true
  Result<> (*set)(T&, std::string_view);
};

// A setter of one member with its parser.
template <auto member, auto parse, typename T>
Result<> assign(T& target, std::string_view text) {
  target.*member = TRY(parse(text));
  return {};
}

template <auto member, typename T>
Result<> assign_text(T& target, std::string_view text) {
  target.*member = std::string(text);
  return {};
}

Result<std::string> parse_cache(std::string_view text) {
  static constexpr std::string_view kWords[] = {"writethrough", "writeback"};
  return one_of(text, kWords);
}
Result<std::string> parse_console(std::string_view text) {
  static constexpr std::string_view kWords[] = {"serial", "virtio"};
  return one_of(text, kWords);
}
Result<std::string> parse_on_reboot(std::string_view text) {
  static constexpr std::string_view kWords[] = {"restart", "exit"};
  return one_of(text, kWords);
}
Result<std::string> parse_bus(std::string_view text) {
  static constexpr std::string_view kWords[] = {"virtio-blk", "scsi"};
  return one_of(text, kWords);
}
Result<std::string> parse_on_error(std::string_view text) {
  static constexpr std::string_view kWords[] = {"report", "pause"};
  return one_of(text, kWords);
}
Result<std::string> parse_engine(std::string_view text) {
  TRY(parse_engine_kind(text));
  return std::string(text);
}
Result<std::string> parse_uuid(std::string_view text) {
  const std::string uuid = TRY(Uuid::parse(text)).text();
  // SMBIOS 3.0, section 7.2.1: so says a machine that has none.
  if (uuid.find_first_not_of("0-") != std::string::npos &&
      uuid.find_first_not_of("f-") != std::string::npos) {
    return uuid;
  }
  return usage_error("'{}' stands for no UUID at all; make one with uuidgen", text);
}
Result<std::string> parse_lun(std::string_view text) { return TRY(LunId::parse(text)).text(); }
Result<std::string> parse_mac_text(std::string_view text) {
  TRY(parse_mac(text));
  return std::string(text);
}
Result<std::string> parse_serial(std::string_view text) {
  if (text.size() <= kMaxSerialBytes) return std::string(text);
  return usage_error("serial '{}' is longer than the {} bytes a virtio disk can have", text,
                     kMaxSerialBytes);
}

using Vm_ = VmDefinition;
constexpr Key<VmDefinition> kVmKeys[] = {
    {"name", "name of the VM", false, assign<&Vm_::name, parse_name, Vm_>},
    {"uuid", "UUID that the guest sees as its own", false, assign<&Vm_::uuid, parse_uuid, Vm_>},
    {"generation-id", "UUID that a copy or an older state of the VM has anew", false,
     assign<&Vm_::generation_id, parse_uuid, Vm_>},
    {"memory", "guest memory, e.g. 512M or 6G", false,
     assign<&Vm_::memory_bytes, parse_memory, Vm_>},
    {"huge-pages", "back guest memory with 2 MiB pages", true,
     assign<&Vm_::huge_pages, parse_bool, Vm_>},
    {"registered-memory", "pin all guest memory, which makes disks cheaper", true,
     assign<&Vm_::registered_memory, parse_bool, Vm_>},
    {"vcpus", "number of virtual CPUs, 1 to 64", false, assign<&Vm_::vcpus, parse_vcpus, Vm_>},
    {"kernel", "bzImage, or ELF with a PVH note", false, assign_text<&Vm_::kernel, Vm_>},
    {"initrd", "initial RAM disk", false, assign_text<&Vm_::initrd, Vm_>},
    {"cmdline", "kernel command line", false, assign_text<&Vm_::cmdline, Vm_>},
    {"console", "device of the console: serial (ttyS0) or virtio (hvc0)", false,
     assign<&Vm_::console, parse_console, Vm_>},
    {"on-reboot", "what a reboot of the guest does: restart or exit", false,
     assign<&Vm_::on_reboot, parse_on_reboot, Vm_>},
    {"vcpu-cpus", "host CPUs of the vCPUs, in turn, e.g. 2-5", false,
     assign<&Vm_::vcpu_cpus, parse_cpu_list, Vm_>},
    {"io-thread-cpus", "host CPUs that I/O threads may use, e.g. 0,1", false,
     assign<&Vm_::io_thread_cpus, parse_cpu_list, Vm_>},
    {"io-poll-us", "microseconds that a disk looks for the next request before it sleeps", false,
     assign<&Vm_::io_poll_us, parse_poll_us, Vm_>},
};

using Disk_ = DiskDefinition;
constexpr Key<DiskDefinition> kDiskKeys[] = {
    {"id", "unique name of the disk", false, assign<&Disk_::id, parse_name, Disk_>},
    {"image", "raw image file", false, assign_text<&Disk_::image, Disk_>},
    {"lun", "identity of a LUN", false, assign<&Disk_::lun, parse_lun, Disk_>},
    {"rdm", "mapping file of a LUN", false, assign_text<&Disk_::rdm, Disk_>},
    {"serial", "serial number seen by the guest", false,
     assign<&Disk_::serial, parse_serial, Disk_>},
    {"bus", "virtio-blk or scsi", false, assign<&Disk_::bus, parse_bus, Disk_>},
    {"cache", "writethrough or writeback", false, assign<&Disk_::cache, parse_cache, Disk_>},
    {"engine", "auto, io_uring or libaio", false, assign<&Disk_::engine, parse_engine, Disk_>},
    {"read-only", "the guest cannot write", true, assign<&Disk_::read_only, parse_bool, Disk_>},
    {"discard", "pass discards on", true, assign<&Disk_::discard, parse_bool, Disk_>},
    {"allow-weak-identity", "take a LUN whose identity may not be unique", true,
     assign<&Disk_::allow_weak_identity, parse_bool, Disk_>},
    {"on-error", "report (to the guest) or pause (the VM)", false,
     assign<&Disk_::on_error, parse_on_error, Disk_>},
    {"path-timeout", "seconds without a path to its LUN after which errors reach the guest", false,
     assign<&Disk_::path_timeout_s, parse_path_timeout, Disk_>},
    {"iops", "limit of requests a second", false, assign<&Disk_::iops, parse_iops, Disk_>},
    {"bandwidth", "limit of bytes a second, e.g. 100M", false,
     assign<&Disk_::bandwidth_bytes, parse_bandwidth, Disk_>},
    {"burst-seconds", "seconds' worth that may exceed the limits after a quiet time", false,
     assign<&Disk_::burst_seconds, parse_burst, Disk_>},
};

using Net_ = NetDefinition;
constexpr Key<NetDefinition> kNetKeys[] = {
    {"tap", "existing tap interface", false, assign_text<&Net_::tap, Net_>},
    {"mac", "MAC address", false, assign<&Net_::mac, parse_mac_text, Net_>},
};

template <typename T, size_t N>
Error unknown_key(const Key<T> (&keys)[N], std::string_view where, std::string_view name) {
  std::vector<std::string_view> known;
  for (const Key<T>& key : keys) known.push_back(key.name);
  if constexpr (std::is_same_v<T, VmDefinition>) known.insert(known.end(), {"disk", "net"});
  return usage_error("{}unknown key '{}'{}", where, name, nearest_hint(name, known));
}

// Sets the key `name` of `target`, or says which key is nearest.
template <typename T, size_t N>
Result<> set_in(const Key<T> (&keys)[N], T& target, std::string_view where, std::string_view name,
                std::string_view value) {
  for (const Key<T>& key : keys) {
    if (key.name != name) continue;
    Result<> set = key.set(target, value);
    if (!set) return usage_error("{}{}: {}", where, name, set.error().message);
    return {};
  }
  return unknown_key(keys, where, name);
}

// TOML's integers, booleans and strings, as the text that a flag would have.
Result<std::string> scalar_text(const toml::node& node, std::string_view where,
                                std::string_view name) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* boolean = node.as_boolean())
    return std::string(boolean->get() ? "true" : "false");
  return usage_error("{}{} takes a text, a number, or true or false", where, name);
}

template <typename T, size_t N>
std::vector<KeyHelp> help_of(const Key<T> (&keys)[N]) {
  std::vector<KeyHelp> help;
  for (const auto& key : keys) help.push_back({key.name, key.help, key.flag});
  return help;
}

template <typename T, size_t N>
Result<T> read_table(const Key<T> (&keys)[N], const toml::table& table, std::string_view where) {
  T target;
  for (const auto& [name, node] : table) {
    const std::string value = TRY(scalar_text(node, where, name.str()));
    TRY(set_in(keys, target, where, name.str(), value));
  }
  return target;
}

// [[disk]] and [[net]]: arrays of tables.
template <typename T, size_t N>
Result<std::vector<T>> read_tables(const Key<T> (&keys)[N], const toml::node& node,
                                   std::string_view file, std::string_view name) {
  const auto* array = node.as_array();
  if (array == nullptr || !array->is_array_of_tables()) {
    return usage_error("{}: write {} as [[{}]] with its keys below", file, name, name);
  }
  std::vector<T> all;
  for (const auto& element : *array) {
    const std::string where =
        fmt::format("{}: line {}: {} ", file, element.source().begin.line, name);
    all.push_back(TRY(read_table(keys, *element.as_table(), where)));
  }
  return all;
}

// "VALUE,key=value,switch": the first part goes to `first_key` unless it is key=value itself.
template <typename T, size_t N>
Result<T> parse_flag(const Key<T> (&keys)[N], std::string_view flag, std::string_view first_key,
                     std::string_view text) {
  T target;
  bool first = true;
  const std::string where = fmt::format("--{} ", flag);
  while (first || !text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
    const size_t equals = part.find('=');
    if (first && !first_key.empty()) {
      TRY(set_in(keys, target, where, first_key, part));
    } else {
      const std::string_view value =
          equals == std::string_view::npos ? std::string_view("true") : part.substr(equals + 1);
      TRY(set_in(keys, target, where, part.substr(0, equals), value));
    }
    first = false;
  }
  return target;
}

// Reproducible with uuidgen(1); docs/vm-definition.md tells how.
Result<> complete_identity(VmDefinition& definition) {
  if (definition.uuid.empty()) {
    definition.uuid = Uuid::derived(TRY(Uuid::parse(kVmNameSpace)), definition.name).text();
  }
  if (definition.generation_id.empty()) {
    definition.generation_id =
        Uuid::derived(TRY(Uuid::parse(definition.uuid)), "generation-id").text();
  }
  return {};
}

}  // namespace

Result<> complete_disk(DiskDefinition& disk) {
  const std::string* const sources[] = {&disk.image, &disk.lun, &disk.rdm};
  if (std::ranges::count_if(sources, [](const auto* source) { return !source->empty(); }) != 1) {
    return usage_error("disk '{}' needs one of image, lun and rdm", disk.id);
  }
  if (!disk.rdm.empty() && disk.allow_weak_identity) {
    return usage_error(
        "disk '{}': whether a weak identity is allowed is for its mapping to say; make it with "
        "`plumb rdm create --allow-weak-identity`",
        disk.id);
  }
  if (disk.on_error.empty()) disk.on_error = disk.image.empty() ? "pause" : "report";
  if (disk.path_timeout_s > 0 && (!disk.image.empty() || disk.on_error != "pause")) {
    return usage_error("disk '{}': path-timeout is for LUNs with on-error = pause", disk.id);
  }
  if (disk.serial.empty()) disk.serial = disk.id.substr(0, kMaxSerialBytes);
  return {};
}

Result<> read_toml(std::string_view text, std::string_view file_name, VmDefinition& definition) {
  const toml::table parsed = TRY(parse_toml(text, file_name));
  for (const auto& [name, node] : parsed) {
    if (name.str() == "disk") {
      definition.disks = TRY(read_tables(kDiskKeys, node, file_name, "disk"));
    } else if (name.str() == "net") {
      definition.nets = TRY(read_tables(kNetKeys, node, file_name, "net"));
    } else {
      const std::string where = fmt::format("{}: line {}: ", file_name, node.source().begin.line);
      const bool known = std::any_of(std::begin(kVmKeys), std::end(kVmKeys),
                                     [&name = name](const auto& key) { return key.name == name; });
      if (!known) return unknown_key(kVmKeys, where, name.str());
      const std::string value = TRY(scalar_text(node, where, name.str()));
      TRY(set_in(kVmKeys, definition, where, name.str(), value));
    }
  }
  return {};
}

Result<> set_key(VmDefinition& definition, std::string_view key, std::string_view value) {
  return set_in(kVmKeys, definition, "--", key, value);
}

Result<> set_disk_key(DiskDefinition& disk, std::string_view key, std::string_view value) {
  return set_in(kDiskKeys, disk, "--", key, value);
}

Result<DiskDefinition> parse_disk_flag(std::string_view text, DiskFlag flag) {
  switch (flag) {
    case DiskFlag::kImage:
      return parse_flag(kDiskKeys, "disk", "image", text);
    case DiskFlag::kLun:
      return parse_flag(kDiskKeys, "lun", "lun", text);
    case DiskFlag::kRdm:
      break;
  }
  return parse_flag(kDiskKeys, "rdm", "rdm", text);
}

Result<NetDefinition> parse_net_flag(std::string_view text) {
  return parse_flag(kNetKeys, "net", "", text);
}

Result<> complete(VmDefinition& definition) {
  if (definition.name.empty()) return usage_error("the VM has no name; give name or --name");
  if (definition.kernel.empty())
    return usage_error("the VM has no kernel; give kernel or --kernel");
  TRY(complete_identity(definition));
  if (definition.disks.size() > kMaxDisks) {
    return usage_error("{} disks are more than the {} a VM can have", definition.disks.size(),
                       kMaxDisks);
  }
  if (definition.nets.size() > kMaxNets) {
    return usage_error("{} network interfaces are more than the {} a VM can have",
                       definition.nets.size(), kMaxNets);
  }
  std::set<std::string> ids;
  for (size_t i = 0; i < definition.disks.size(); ++i) {
    DiskDefinition& disk = definition.disks[i];
    if (disk.id.empty()) disk.id = fmt::format("disk{}", i);
    TRY(complete_disk(disk));
    if (!ids.insert(disk.id).second) {
      return usage_error("two disks have the id '{}'; give each its own", disk.id);
    }
  }
  std::set<std::string> luns;
  for (const DiskDefinition& disk : definition.disks) {
    const std::string& lun = disk.lun.empty() ? disk.rdm : disk.lun;
    if (lun.empty() || luns.insert(lun).second) continue;
    return usage_error("two disks are the LUN {}; a VM can have it once", lun);
  }
  for (size_t i = 0; i < definition.nets.size(); ++i) {
    NetDefinition& net = definition.nets[i];
    if (net.tap.empty()) return usage_error("a network interface needs a tap, such as tap=tap0");
    if (!net.mac.empty()) continue;
    // 52:54:00 is the range that KVM guests use; the rest is the same at every start.
    const size_t hash = std::hash<std::string>{}(definition.name) + i;
    net.mac = fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", hash & 0xff, hash >> 8U & 0xff,
                          hash >> 16U & 0xff);
  }
  return {};
}

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DiskDefinition, id, image, lun, rdm, serial, bus, cache, engine,
                                   read_only, discard, allow_weak_identity, on_error,
                                   path_timeout_s, iops, bandwidth_bytes, burst_seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NetDefinition, tap, mac)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(VmDefinition, name, uuid, generation_id, memory_bytes,
                                   huge_pages, registered_memory, vcpus, kernel, initrd, cmdline,
                                   console, on_reboot, vcpu_cpus, io_thread_cpus, io_poll_us, disks,
                                   nets)

nlohmann::json to_json(const VmDefinition& definition) {
  nlohmann::json json;
  to_json(json, definition);
  return json;
}

Result<VmDefinition> from_json(const nlohmann::json& json) {
  VmDefinition definition;
  try {
    from_json(json, definition);
  } catch (const nlohmann::json::exception& error) {
    return failed("the VM definition is not in the form that this version writes: {}",
                  error.what());
  }
  return definition;
}

nlohmann::json disk_to_json(const DiskDefinition& disk) {
  nlohmann::json json;
  to_json(json, disk);
  return json;
}

Result<DiskDefinition> disk_from_json(const nlohmann::json& json) {
  DiskDefinition disk;
  try {
    from_json(json, disk);
  } catch (const nlohmann::json::exception& error) {
    return failed("the disk is not defined in the form that this version writes: {}", error.what());
  }
  return disk;
}

std::vector<KeyHelp> vm_keys() { return help_of(kVmKeys); }
std::vector<KeyHelp> disk_keys() { return help_of(kDiskKeys); }

}  // namespace plumb
