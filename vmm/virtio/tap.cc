#include "vmm/virtio/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "vmm/virtio/net.h"

namespace plumb {
namespace {

int hex_digit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

Error cannot_attach(const std::string& name, int error) {
  switch (error) {
    case EBUSY:
      return make_error(ErrorKind::kLocked, "tap interface {} is in use by another program", name);
    case EINVAL:
      return failed("interface {} is not a tap interface of one queue", name);
    case EPERM:
      return os_error(error,
                      "tap interface {} belongs to someone else; give it to this user with "
                      "ip tuntap add {} mode tap user USER",
                      name, name);
    default:
      return os_error(error, "tap interface {} cannot be used", name);
  }
}

}  // namespace

Result<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  bool good = text.size() == 17;
  for (size_t i = 0; good && i < mac.size(); ++i) {
    const int high = hex_digit(text[i * 3]);
    const int low = hex_digit(text[i * 3 + 1]);
    good = high >= 0 && low >= 0 && (i == 5 || text[i * 3 + 2] == ':');
    if (good) mac[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (!good) return usage_error("MAC address \"{}\" is not of the form 52:54:00:12:34:56", text);
  if ((mac[0] & 1U) != 0)
    return usage_error(
        "MAC address {} is a group address; give an interface's own, such as 52:54:00:12:34:56",
        text);
  if (std::ranges::all_of(mac, [](uint8_t byte) { return byte == 0; })) {
    return usage_error("MAC address {} is no address; leave it out to have one made", text);
  }
  return mac;
}

Result<UniqueFd> open_tap(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return usage_error("tap interface name \"{}\" is not 1 to {} characters long", name,
                       IFNAMSIZ - 1);
  }
  // Attaching to a name that does not exist would make an interface, without an address or bridge.
  if (::if_nametoindex(name.c_str()) == 0) {
    return failed("tap interface {} does not exist; make it with ip tuntap add {} mode tap", name,
                  name);
  }
  UniqueFd fd = TRY(open_file("device", "/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return cannot_attach(name, errno);
  int header_bytes = VirtioNet::kHeaderBytes;
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_bytes) != 0) {
    return os_error(errno, "tap interface {} has no virtio-net headers", name);
  }
  return fd;
}

bool set_tap_offloads(int fd, unsigned tun_flags) {
  return ::ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(tun_flags)) == 0;
}

}  // namespace plumb
