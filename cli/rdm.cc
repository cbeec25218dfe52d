// plumb rdm create, rdm show, rdm verify: mapping files, each of which stands for a LUN.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "rdm/claim.h"
#include "rdm/mapping_file.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

Json describe(const MappingFile& mapping) {
  return {{"uuid", mapping.uuid},
          {"mode", mode_name(mapping.mode)},
          {"wwid", mapping.wwid.text()},
          {"serial", mapping.serial},
          {"vendor", mapping.vendor},
          {"model", mapping.model},
          {"size_bytes", mapping.size_bytes},
          {"logical_block_size", mapping.logical_block_size},
          {"sharing", mapping.shared ? "shared" : "exclusive"},
          {"allow_weak_identity", mapping.allow_weak_identity}};
}

// What speaks against using the mapping's LUN, a sentence each.
std::vector<std::string> problems_of(const MappingFile& mapping, Result<Lun>& lun) {
  if (!lun) return {lun.error().message};
  return differences(mapping, lun.value());
}

}  // namespace

Result<ExitCode> create_rdm(const RdmOptions& options) {
  const MappingMode mode = TRY(parse_mapping_mode(options.mode));
  const Lun lun = TRY(LunResolver().resolve(TRY(LunId::parse(options.wwn))));
  MappingFile mapping =
      TRY(make_mapping(lun, {.mode = mode,
                             .shared = options.shared,
                             .allow_weak_identity = options.allow_weak_identity}));
  if (options.replace) {
    // Of the same LUN it stays the same mapping.
    Result<MappingFile> old = read_mapping(options.file);
    if (old && old.value().wwid == mapping.wwid) mapping.uuid = old.value().uuid;
  }
  TRY(write_mapping(options.file, mapping, options.replace));
  return kExitOk;
}

Result<ExitCode> show_rdm(const std::string& file, bool json) {
  const MappingFile mapping = TRY(read_mapping(file));
  const LunResolver resolver;
  Result<Lun> lun = resolver.resolve(mapping.wwid);
  Json facts = describe(mapping);
  facts["device"] = lun ? Json(resolver.device_path(lun.value())) : Json();
  facts["problems"] = problems_of(mapping, lun);
  if (json) {
    print_json(facts);
    return kExitOk;
  }
  const auto line = [](const std::string& key, const std::string& text) {
    fmt::print("{:<20} {}\n", key, printable(text));
  };
  const Json problems = facts["problems"];
  facts.erase("problems");
  for (const auto& [key, value] : facts.items()) {
    line(key, value.is_string() ? value.get<std::string>() : value.is_null() ? "-" : value.dump());
  }
  for (const Json& problem : problems) line("problem", problem.get<std::string>());
  return kExitOk;
}

Result<ExitCode> verify_rdm(const std::string& file, bool json) {
  const MappingFile mapping = TRY(read_mapping(file));
  Result<Lun> lun = LunResolver().resolve(mapping.wwid);
  const std::vector<std::string> problems = problems_of(mapping, lun);
  if (json) {
    print_json({{"wwid", mapping.wwid.text()}, {"ok", problems.empty()}, {"problems", problems}});
  } else {
    for (const std::string& problem : problems) {
      fmt::print(stderr, "plumb: mapping {}: {}\n", file, printable(problem));
    }
  }
  return problems.empty() ? kExitOk : kExitFailed;
}

}  // namespace plumb
