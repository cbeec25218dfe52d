#include "snapshot/domain_xml.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include <algorithm>
#include <memory>

#include "base/text.h"

namespace plumb {
namespace {

using Document = std::unique_ptr<xmlDoc, decltype(&xmlFreeDoc)>;

bool is_named(const xmlNode* node, const char* name) {
  return node->type == XML_ELEMENT_NODE &&
         xmlStrEqual(node->name, reinterpret_cast<const xmlChar*>(name)) != 0;
}

// The first child of that name; nullptr without one, and below nullptr.
const xmlNode* child(const xmlNode* node, const char* name) {
  const xmlNode* found = node == nullptr ? nullptr : node->children;
  while (found != nullptr && !is_named(found, name)) found = found->next;
  return found;
}

// "" when there is no such attribute, or no such node.
std::string attribute(const xmlNode* node, const char* name) {
  if (node == nullptr) return {};
  xmlChar* value = xmlGetNoNsProp(node, reinterpret_cast<const xmlChar*>(name));
  if (value == nullptr) return {};
  std::string text(reinterpret_cast<const char*>(value));
  xmlFree(value);
  return text;
}

// Nothing outside the text is read, and no entity is taken over: libvirt writes no document type.
Result<Document> parse(std::string_view xml) {
  const auto broken = [] { return failed("libvirt describes the domain in XML that is none"); };
  if (xml.size() > kMaxDomainXmlBytes) {
    return failed("libvirt describes the domain in {} bytes of XML, more than the {} that fit",
                  xml.size(), kMaxDomainXmlBytes);
  }
  if (xml.find("<!DOCTYPE") != std::string_view::npos) return broken();
  Document document(xmlReadMemory(xml.data(), static_cast<int>(xml.size()), nullptr, nullptr,
                                  XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING),
                    xmlFreeDoc);
  if (!document || xmlGetIntSubset(document.get()) != nullptr) return broken();
  return document;
}

Result<DomainDisk> read_disk(const xmlNode* node, const std::string& id) {
  const xmlNode* driver = child(node, "driver");
  const std::string type = attribute(node, "type");
  const std::string format = attribute(driver, "type");
  const std::string name = printable(id);
  if (type != "file" && type != "block") {
    return failed(
        "disk {} is of type '{}'; only image files and LUNs of this host can be copied here", name,
        printable(type));
  }
  if (format != "raw") {
    return failed(
        "disk {} has the format '{}'; only raw disks can be copied here (qemu-img convert -O raw "
        "makes one)",
        name, printable(format));
  }
  if (attribute(driver, "cache") == "unsafe") {
    return failed(
        "disk {} has the cache mode unsafe: what its guest flushed need not be on its medium; give "
        "it cache='none'",
        name);
  }
  DomainDisk disk{.id = id, .block = type == "block", .path = {}};
  disk.path = attribute(child(node, "source"), disk.block ? "dev" : "file");
  if (!disk.path.starts_with('/')) return failed("disk {} has no source with a path", name);
  return disk;
}

Result<> add_disk(const xmlNode* node, DomainDisks& found) {
  const std::string id = attribute(child(node, "target"), "dev");
  const std::string device = attribute(node, "device");  // "disk" when it is not said
  if (device == "cdrom" || device == "floppy") {
    if (child(node, "source") == nullptr) return {};
    found.left_out.push_back(
        fmt::format("{} {} has a medium, which is not copied", device, printable(id)));
    return {};
  }
  const auto same = [&](const DomainDisk& other) { return other.id == id; };
  if (id.empty() || std::ranges::any_of(found.disks, same)) {
    return failed("libvirt's XML has two disks '{}', or one without a target", printable(id));
  }
  found.disks.push_back(TRY(read_disk(node, id)));
  return {};
}

}  // namespace

Result<DomainDisks> disks_of_domain(std::string_view xml) {
  const Document document = TRY(parse(xml));
  const xmlNode* root = xmlDocGetRootElement(document.get());
  const xmlNode* devices =
      root != nullptr && is_named(root, "domain") ? child(root, "devices") : nullptr;
  if (devices == nullptr) return failed("libvirt's XML describes no domain with devices");
  DomainDisks found;
  for (const xmlNode* node = devices->children; node != nullptr; node = node->next) {
    if (is_named(node, "disk")) TRY(add_disk(node, found));
    // A LUN given to the guest as a whole would be missing without a word.
    if (is_named(node, "hostdev") && attribute(node, "type") == "scsi") {
      return failed(
          "the domain has a SCSI device of the host (hostdev), which cannot be copied here; make "
          "it "
          "a disk of type block");
    }
  }
  return found;
}

}  // namespace plumb
