#include "cli/definition.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

// toml++ 3.3 asserts, and in release builds assumes, what some files break ("[#"): here that is
// an error like any other, in every build.
#undef NDEBUG
namespace plumb {
struct TomlParserLost {};
constexpr void toml_parser_expects(bool condition) {
  if (!condition) throw TomlParserLost();
}
}  // namespace plumb
#define TOML_ASSERT(expression) ::plumb::toml_parser_expects(!!(expression))
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "base/size.h"
#include "blockdev/io_thread.h"
#include "cli/nearest.h"
#include "rdm/lun_id.h"
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

Result<std::string> parse_mac(std::string_view text) {
  const bool good = text.size() == 17 && [text] {
    for (size_t i = 0; i < text.size(); ++i) {
      const unsigned char c = static_cast<unsigned char>(text[i]);
      if (i % 3 == 2 ? c != ':' : std::isxdigit(c) == 0) return false;
    }
    // The lowest bit of the first byte marks groups (IEEE 802).
    return (std::stoi(std::string(text.substr(0, 2)), nullptr, 16) & 1) == 0;
  }();
  if (good) return std::string(text);
  return usage_error("'{}' is not the MAC address of an interface, such as 52:54:00:12:34:56",
                     text);
}

Result<unsigned> parse_vcpus(std::string_view text) {
  unsigned count = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (status != std::errc{} || end != text.data() + text.size() || count < 1 || count > kMaxVcpus) {
    return usage_error("'{}' is not a number of vCPUs from 1 to {}", text, kMaxVcpus);
  }
  return count;
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
Result<std::string> parse_engine(std::string_view text) {
  TRY(parse_engine_kind(text));
  return std::string(text);
}
Result<std::string> parse_lun(std::string_view text) { return TRY(LunId::parse(text)).text(); }
Result<std::string> parse_serial(std::string_view text) {
  if (text.size() <= kMaxSerialBytes) return std::string(text);
  return usage_error("serial '{}' is longer than the {} bytes a virtio disk can have", text,
                     kMaxSerialBytes);
}

using Vm_ = VmDefinition;
constexpr Key<VmDefinition> kVmKeys[] = {
    {"name", "name of the VM", false, assign<&Vm_::name, parse_name, Vm_>},
    {"memory", "guest memory, e.g. 512M or 6G", false,
     assign<&Vm_::memory_bytes, parse_memory, Vm_>},
    {"huge-pages", "back guest memory with 2 MiB pages", true,
     assign<&Vm_::huge_pages, parse_bool, Vm_>},
    {"vcpus", "number of virtual CPUs, 1 to 64", false, assign<&Vm_::vcpus, parse_vcpus, Vm_>},
    {"kernel", "bzImage, or ELF with a PVH note", false, assign_text<&Vm_::kernel, Vm_>},
    {"initrd", "initial RAM disk", false, assign_text<&Vm_::initrd, Vm_>},
    {"cmdline", "kernel command line", false, assign_text<&Vm_::cmdline, Vm_>},
    {"console", "device of the console: serial (ttyS0) or virtio (hvc0)", false,
     assign<&Vm_::console, parse_console, Vm_>},
    {"on-reboot", "what a reboot of the guest does: restart or exit", false,
     assign<&Vm_::on_reboot, parse_on_reboot, Vm_>},
};

using Disk_ = DiskDefinition;
constexpr Key<DiskDefinition> kDiskKeys[] = {
    {"id", "unique name of the disk", false, assign<&Disk_::id, parse_name, Disk_>},
    {"image", "raw image file", false, assign_text<&Disk_::image, Disk_>},
    {"lun", "identity of a LUN", false, assign<&Disk_::lun, parse_lun, Disk_>},
    {"serial", "serial number seen by the guest", false,
     assign<&Disk_::serial, parse_serial, Disk_>},
    {"cache", "writethrough or writeback", false, assign<&Disk_::cache, parse_cache, Disk_>},
    {"engine", "auto, io_uring or libaio", false, assign<&Disk_::engine, parse_engine, Disk_>},
    {"read-only", "the guest cannot write", true, assign<&Disk_::read_only, parse_bool, Disk_>},
    {"discard", "pass discards on", true, assign<&Disk_::discard, parse_bool, Disk_>},
    {"allow-weak-identity", "take a LUN whose identity may not be unique", true,
     assign<&Disk_::allow_weak_identity, parse_bool, Disk_>},
};

using Net_ = NetDefinition;
constexpr Key<NetDefinition> kNetKeys[] = {
    {"tap", "existing tap interface", false, assign_text<&Net_::tap, Net_>},
    {"mac", "MAC address", false, assign<&Net_::mac, parse_mac, Net_>},
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

Result<toml::table> parse_toml(std::string_view text, std::string_view file_name) {
  // toml++ 3.3 does not get over one.
  if (text.starts_with("\xef\xbb\xbf")) {
    return usage_error("{} starts with a byte-order mark; save it as UTF-8 without one", file_name);
  }
  try {
    return toml::parse(text, file_name);
  } catch (const toml::parse_error& error) {
    return usage_error("{}: line {}: {}", file_name, error.source().begin.line,
                       error.description());
  } catch (const TomlParserLost&) {
    return usage_error("{} is not TOML; check its brackets and keys", file_name);
  }
}

Result<> complete_disk(DiskDefinition& disk, size_t position, std::set<std::string>& ids) {
  if (disk.id.empty()) disk.id = fmt::format("disk{}", position);
  if (disk.image.empty() == disk.lun.empty()) {
    return usage_error("disk '{}' needs either an image or a lun", disk.id);
  }
  if (disk.serial.empty()) disk.serial = disk.id.substr(0, kMaxSerialBytes);
  if (!ids.insert(disk.id).second) {
    return usage_error("two disks have the id '{}'; give each its own", disk.id);
  }
  return {};
}

}  // namespace

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

Result<DiskDefinition> parse_disk_flag(std::string_view text, bool lun) {
  return lun ? parse_flag(kDiskKeys, "lun", "lun", text)
             : parse_flag(kDiskKeys, "disk", "image", text);
}

Result<NetDefinition> parse_net_flag(std::string_view text) {
  return parse_flag(kNetKeys, "net", "", text);
}

Result<> complete(VmDefinition& definition) {
  if (definition.name.empty()) return usage_error("the VM has no name; give name or --name");
  if (definition.kernel.empty())
    return usage_error("the VM has no kernel; give kernel or --kernel");
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
    TRY(complete_disk(definition.disks[i], i, ids));
  }
  std::set<std::string> luns;
  for (const DiskDefinition& disk : definition.disks) {
    if (disk.lun.empty() || luns.insert(disk.lun).second) continue;
    return usage_error("two disks are the LUN {}; a VM can have it once", disk.lun);
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

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DiskDefinition, id, image, lun, serial, cache, engine, read_only,
                                   discard, allow_weak_identity)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NetDefinition, tap, mac)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(VmDefinition, name, memory_bytes, huge_pages, vcpus, kernel,
                                   initrd, cmdline, console, on_reboot, disks, nets)

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

std::vector<KeyHelp> vm_keys() {
  std::vector<KeyHelp> keys;
  for (const auto& key : kVmKeys) keys.push_back({key.name, key.help, key.flag});
  return keys;
}

}  // namespace plumb
