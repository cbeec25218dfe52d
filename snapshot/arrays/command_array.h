// Any array, by a program of the administrator's: `PROGRAM ACTION`, a JSON object on its standard
// input, another on its standard output, an exit status. docs/arrays.md, "command", is the contract
// that such a program is written to; docs/examples/array-command is one.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct CommandConfig {
  std::string name;
  std::string program;  // absolute path
  ArrayProvider::Abilities abilities;
  unsigned timeout_ms = 300'000;                // of one call
  unsigned take_timeout_ms = 10'000;            // of "take", while guests are frozen
  std::map<std::string, std::string> settings;  // handed to the program
};

// The program is not run before it is needed.
std::unique_ptr<ArrayProvider> make_command_array(const CommandConfig& config);

// What a program may answer, read strictly: an error says which word is missing, or of the wrong
// kind or out of bounds. Pure.
namespace command_answer {
Result<std::optional<ArrayVolume>> found(std::string_view text);
Result<ArrayVolume> volume(std::string_view text);
Result<std::vector<ArrayVolume>> volumes(std::string_view text);
Result<std::vector<ArraySnapshot>> snapshots(std::string_view text);
Result<MappedVolume> mapped(std::string_view text);
Result<ArrayCapacity> capacity(std::string_view text);
Result<> nothing(std::string_view text);
}  // namespace command_answer

}  // namespace plumb
