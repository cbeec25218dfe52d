// The disks of a guest of libvirt, from its live XML (libvirt.org/formatdomain.html). Pure.
//
// What could be copied wrongly is refused, never left out: formats but raw, disks that are neither
// a file nor a block device of this host, the cache mode "unsafe", in which a guest's flush need
// not reach the medium.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb {

// A record holds the XML, and so does an answer of the lease.
inline constexpr size_t kMaxDomainXmlBytes = size_t{128} << 10U;

struct DomainDisk {
  std::string id;      // its target: "vda"
  bool block = false;  // a block device; else an image file
  std::string path;    // absolute
};

struct DomainDisks {
  std::vector<DomainDisk> disks;
  std::vector<std::string> left_out;  // a sentence for each CD-ROM or floppy with a medium
};

Result<DomainDisks> disks_of_domain(std::string_view xml);

}  // namespace plumb
