// plumb array list, check.
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "base/nearest.h"
#include "base/size.h"
#include "base/text.h"
#include "cli/array_commands.h"
#include "cli/host_config.h"
#include "cli/output.h"

namespace plumb {
namespace {

// What an array says of itself.
struct Report {
  std::string name;
  std::string error;  // "": it is well
  ArrayCapacity capacity;
  ArrayProvider::Abilities abilities;
};

Result<> ask(ArrayProvider& array, Report& report) {
  report.abilities = array.abilities();
  TRY(array.health());
  report.capacity = TRY(array.capacity());
  return {};
}

Report report_of(const ArrayDefinition& definition) {
  Report report{.name = array_name(definition), .error = {}, .capacity = {}, .abilities = {}};
  Result<std::unique_ptr<ArrayProvider>> array = open_array(definition);
  Result<> asked = array ? ask(**array, report) : Result<>(array.error());
  if (!asked) report.error = asked.error().message;
  return report;
}

std::string abilities_text(const ArrayProvider::Abilities& abilities) {
  std::string text = abilities.instant ? "instant" : "copies";
  if (abilities.group) text += ", groups";
  if (abilities.provisions) text += ", new volumes";
  return text;
}

}  // namespace

Result<ExitCode> list_arrays(bool json) {
  nlohmann::json all = nlohmann::json::array();
  Table table({"ARRAY", "STATE", "FREE", "SIZE", "SNAPSHOTS"});
  bool well = true;
  for (const ArrayDefinition& definition : TRY(configured_arrays())) {
    const Report report = report_of(definition);
    well = well && report.error.empty();
    all.push_back({{"name", report.name},
                   {"error", report.error},
                   {"total_bytes", report.capacity.total_bytes},
                   {"free_bytes", report.capacity.free_bytes},
                   {"group", report.abilities.group},
                   {"instant", report.abilities.instant},
                   {"provisions", report.abilities.provisions}});
    table.add({report.name, report.error.empty() ? "well" : report.error,
               format_size(report.capacity.free_bytes), format_size(report.capacity.total_bytes),
               abilities_text(report.abilities)});
  }
  if (json) {
    print_json(all);
  } else {
    table.print();
  }
  return well ? kExitOk : kExitArray;
}

Result<ExitCode> check_arrays(const std::string& name) {
  std::vector<std::string> names;
  std::optional<ExitCode> code;
  for (const ArrayDefinition& definition : TRY(configured_arrays())) {
    names.push_back(array_name(definition));
    if (!name.empty() && names.back() != name) continue;
    const Report report = report_of(definition);
    if (!code) code = kExitOk;
    if (report.error.empty()) continue;
    fmt::print(stderr, "plumb: {}\n", printable(report.error));
    code = kExitArray;
  }
  if (code || name.empty()) return code.value_or(kExitOk);
  const std::vector<std::string_view> known(names.begin(), names.end());
  return make_error(ErrorKind::kNotFound, "{} names no array '{}'{}", config_path(), name,
                    nearest_hint(name, known));
}

}  // namespace plumb
