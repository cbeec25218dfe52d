// plumb lun list, lun show: the LUNs this host sees, and who uses them.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/process.h"
#include "base/size.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "rdm/claim.h"
#include "rdm/lun_resolver.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// "free", or what uses the LUN on this host.
std::string user_of(const Lun& lun, const SystemRoots& roots) {
  if (const auto use = use_of(lun, roots)) return *use;
  if (const auto process = process_with_device_open(lun.number)) return "open in " + *process;
  return "free";
}

Json describe(const Lun& lun, const SystemRoots& roots) {
  Json paths = Json::array();
  for (const LunPath& path : lun.paths) {
    paths.push_back({{"name", path.name}, {"state", path.state}});
  }
  return {{"wwn", lun.id.text()},
          {"device", "/dev/" + lun.name},
          {"transport", transport_name(lun.transport)},
          {"vendor", lun.vendor},
          {"model", lun.model},
          {"serial", lun.serial},
          {"size_bytes", lun.size_bytes},
          {"logical_block_size", lun.logical_block_size},
          {"physical_block_size", lun.physical_block_size},
          {"write_cache", lun.write_cache},
          {"fua", lun.fua},
          {"read_only", lun.read_only},
          {"paths", paths},
          {"use", user_of(lun, roots)}};
}

}  // namespace

Result<ExitCode> list_luns(bool json) {
  const LunResolver resolver;
  Json all = Json::array();
  for (const Lun& lun : resolver.list()) all.push_back(describe(lun, resolver.roots()));
  if (json) {
    print_json(all);
    return kExitOk;
  }
  Table table({"WWN", "DEVICE", "SIZE", "VENDOR", "MODEL", "CACHE", "PATHS", "USE"});
  for (const Json& lun : all) {
    table.add({lun["wwn"], lun["device"], format_size(lun["size_bytes"]), lun["vendor"],
               lun["model"], lun["write_cache"], std::to_string(lun["paths"].size()), lun["use"]});
  }
  table.print();
  return kExitOk;
}

Result<ExitCode> show_lun(const std::string& wwn, bool json) {
  const LunResolver resolver;
  const Lun lun = TRY(resolver.resolve(TRY(LunId::parse(wwn))));
  const Json facts = describe(lun, resolver.roots());
  if (json) {
    print_json(facts);
    return kExitOk;
  }
  for (const auto& [key, value] : facts.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    fmt::print("{:<20} {}\n", key, printable(text));
  }
  return kExitOk;
}

}  // namespace plumb
