#include "base/toml_file.h"

namespace plumb {

Result<toml::table> parse_toml(std::string_view text, std::string_view file_name) {
  try {
    return toml::parse(text, file_name);
  } catch (const toml::parse_error& error) {
    return usage_error("{}: line {}: {}", file_name, error.source().begin.line,
                       error.description());
  } catch (const TomlParserLost&) {
    return usage_error("{} is not TOML; check its brackets and keys", file_name);
  }
}

}  // namespace plumb
