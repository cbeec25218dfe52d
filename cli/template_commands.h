// The commands of `plumb template`, which the program plumb-snapshot has.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/exit_code.h"

namespace plumb {

struct TemplateCreateOptions {
  std::string name;
  std::string snapshot;
  std::string vm;  // of a snapshot of several
  std::string note;
};
Result<ExitCode> create_template(const TemplateCreateOptions& options);

struct TemplateDeployOptions {
  std::string name;
  std::string vm;
  std::string file;               // the definition to write; "" is VM.toml
  std::vector<std::string> taps;  // in place of the template's, in its order
};
Result<ExitCode> deploy_template(const TemplateDeployOptions& options);

Result<ExitCode> list_templates(bool json);
// `file` "-" is standard output, or standard input.
Result<ExitCode> export_template(const std::string& name, const std::string& file);
struct TemplateImportOptions {
  std::string file;
  std::string name;
  std::string array;   // one of these two says where its disks go
  std::string folder;  // on a file system with reflinks
};
Result<ExitCode> import_template(const TemplateImportOptions& options);
Result<ExitCode> delete_templates(const std::vector<std::string>& names);

}  // namespace plumb
