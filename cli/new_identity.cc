#include "cli/new_identity.h"

#include <algorithm>

#include "base/uuid.h"

namespace plumb {
namespace {

// 16 hexadecimal digits that no other disk has.
Result<std::string> new_serial() {
  std::string text = TRY(Uuid::random()).text();
  std::erase(text, '-');
  return text.substr(0, 16);
}

}  // namespace

Result<> give_new_identity(VmDefinition& definition, const std::string& name) {
  TRY(set_key(definition, "name", name));
  definition.uuid = TRY(Uuid::random()).text();
  definition.generation_id = TRY(Uuid::random()).text();
  for (NetDefinition& net : definition.nets) net.mac.clear();  // made of the new name
  for (DiskDefinition& disk : definition.disks) disk.serial = TRY(new_serial());
  return {};
}

}  // namespace plumb
