// A domain's XML from libvirt: any text gives disks that have a name and a path each, or a
// sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/domain_xml.h"
#include "snapshot/libvirt_domain.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  plumb::Result<plumb::DomainDisks> found = plumb::disks_of_domain(text);
  if (!found.ok()) {
    ENSURE(!found.error().message.empty());
    return 0;
  }
  for (const plumb::DomainDisk& disk : found->disks) {
    ENSURE(!disk.id.empty() && disk.path.starts_with('/'));
  }
  static_cast<void>(plumb::check_libvirt_uri(text));
  return 0;
}
