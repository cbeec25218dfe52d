// plumb disk list, disk resize: the disks of a running VM.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/size.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/vm_client.h"

namespace plumb {

using Json = nlohmann::json;

Result<ExitCode> list_disks(const std::string& vm_name, bool json) {
  const VmClient vm = TRY(VmClient::find(vm_name));
  const Json disks = TRY(vm.get("/vm")).value("disks", Json::array());
  if (json) {
    print_json(disks);
    return kExitOk;
  }
  Table table({"DISK", "STATE", "SIZE", "CACHE", "SOURCE", "READS", "WRITES", "ERRORS"});
  for (const Json& disk : disks) {
    const Json& statistics = disk["statistics"];
    uint64_t errors = 0;
    for (const Json& of : statistics) {
      if (of.is_object()) errors += of.value("errors", uint64_t{0});
    }
    table.add({disk["id"], disk["state"], format_size(disk["size_bytes"]), disk["cache"],
               disk["source"], statistics["read"]["requests"].dump(),
               statistics["write"]["requests"].dump(), std::to_string(errors)});
  }
  table.print();
  return kExitOk;
}

Result<ExitCode> resize_disk(const std::string& vm_name, const std::string& disk,
                             const std::string& size) {
  const uint64_t size_bytes = size.empty() ? 0 : TRY(parse_size(size));
  const VmClient vm = TRY(VmClient::find(vm_name));
  const Json answer =
      TRY(vm.put("/disks/resize", Json{{"disk", disk}, {"size_bytes", size_bytes}}));
  fmt::print("{} is {} now\n", disk, format_size(answer.value("size_bytes", uint64_t{0})));
  return kExitOk;
}

}  // namespace plumb
