// Prints a definition as read_toml() reads it.
#include <string>

#include "cli/definition.h"

namespace plumb {
namespace {

// A basic string of TOML 1.0.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string cpu_list(const std::vector<int>& cpus) {
  std::string text;
  for (const int cpu : cpus) text += (text.empty() ? "" : ",") + std::to_string(cpu);
  return text;
}

// Lines "key = value", of the values that are not `usual`.
class Lines {
 public:
  void text(std::string_view key, const std::string& value, std::string_view usual = "") {
    if (value != usual) add(key, quoted(value));
  }
  void number(std::string_view key, uint64_t value, uint64_t usual = 0) {
    if (value != usual) add(key, std::to_string(value));
  }
  void flag(std::string_view key, bool value, bool usual = false) {
    if (value != usual) add(key, value ? "true" : "false");
  }
  void head(std::string_view name) { text_ += fmt::format("\n[[{}]]\n", name); }
  std::string take() { return std::move(text_); }

 private:
  void add(std::string_view key, std::string_view value) {
    text_ += fmt::format("{} = {}\n", key, value);
  }
  std::string text_;
};

void print_disk(Lines& lines, const DiskDefinition& disk) {
  const DiskDefinition usual;
  lines.head("disk");
  lines.text("id", disk.id);
  lines.text("image", disk.image);
  lines.text("lun", disk.lun);
  lines.text("rdm", disk.rdm);
  lines.text("serial", disk.serial);
  lines.text("bus", disk.bus, usual.bus);
  lines.text("cache", disk.cache, usual.cache);
  lines.text("engine", disk.engine, usual.engine);
  lines.flag("read-only", disk.read_only);
  lines.flag("discard", disk.discard, usual.discard);
  lines.flag("allow-weak-identity", disk.allow_weak_identity);
  lines.text("on-error", disk.on_error);
  lines.number("path-timeout", disk.path_timeout_s);
  lines.number("iops", disk.iops);
  lines.number("bandwidth", disk.bandwidth_bytes);
  lines.number("burst-seconds", disk.burst_seconds, usual.burst_seconds);
}

}  // namespace

std::string print_toml(const VmDefinition& definition) {
  const VmDefinition usual;
  Lines lines;
  lines.text("name", definition.name);
  lines.text("uuid", definition.uuid);
  lines.text("generation-id", definition.generation_id);
  lines.number("memory", definition.memory_bytes);
  lines.flag("huge-pages", definition.huge_pages);
  lines.flag("registered-memory", definition.registered_memory);
  lines.number("vcpus", definition.vcpus, usual.vcpus);
  lines.text("kernel", definition.kernel);
  lines.text("initrd", definition.initrd);
  lines.text("cmdline", definition.cmdline, usual.cmdline);
  lines.text("console", definition.console, usual.console);
  lines.text("on-reboot", definition.on_reboot, usual.on_reboot);
  lines.text("vcpu-cpus", cpu_list(definition.vcpu_cpus));
  lines.text("io-thread-cpus", cpu_list(definition.io_thread_cpus));
  lines.number("io-poll-us", definition.io_poll_us, usual.io_poll_us);
  for (const DiskDefinition& disk : definition.disks) print_disk(lines, disk);
  for (const NetDefinition& net : definition.nets) {
    lines.head("net");
    lines.text("tap", net.tap);
    lines.text("mac", net.mac);
  }
  return lines.take();
}

}  // namespace plumb
