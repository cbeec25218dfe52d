#include "snapshot/libvirt_domain.h"

#include "base/text.h"

namespace plumb {

Result<> check_libvirt_uri(std::string_view uri) {
  const auto begins = [&](std::string_view start) { return uri.starts_with(start); };
  if (begins("qemu:///") || begins("qemu+unix:///")) return {};
  return usage_error(
      "'{}' is not the URI of QEMU on this host, where the disks are too; give qemu:///system, "
      "qemu:///session or qemu+unix:///system?socket=PATH",
      printable(uri));
}

}  // namespace plumb
