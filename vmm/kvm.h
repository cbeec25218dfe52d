// Kvm: the host's KVM, opened and checked; and the error texts of its calls.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

// ioctl(2), again when a signal came in between. For calls on the KVM, VM and vCPU descriptors
// other than KVM_RUN.
template <typename T>
int kvm_ioctl(int fd, unsigned long request, T argument) {
  int result = 0;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

// KVM's calls with an array begin with its length. Their declarations in <linux/kvm.h> have
// another size in C++ than in C (a flexible array member beside an empty struct), and so have the
// call numbers made from them: these are the right ones.
struct KvmArrayHead {
  uint32_t count = 0;
  uint32_t reserved = 0;  // padding or flags
};
inline constexpr unsigned long kKvmGetSupportedCpuid = _IOWR(KVMIO, 0x05, KvmArrayHead);
inline constexpr unsigned long kKvmSetCpuid2 = _IOW(KVMIO, 0x90, KvmArrayHead);
inline constexpr unsigned long kKvmSetMsrs = _IOW(KVMIO, 0x89, KvmArrayHead);
inline constexpr unsigned long kKvmSetGsiRouting = _IOW(KVMIO, 0x6a, KvmArrayHead);

// The argument of such a call.
template <typename T>
std::vector<std::byte> kvm_array(std::span<const T> items) {
  std::vector<std::byte> bytes(sizeof(KvmArrayHead) + items.size_bytes());
  const KvmArrayHead head{.count = static_cast<uint32_t>(items.size())};
  std::memcpy(bytes.data(), &head, sizeof(head));
  if (!items.empty()) std::memcpy(bytes.data() + sizeof(head), items.data(), items.size_bytes());
  return bytes;
}

class Kvm {
 public:
  // Errors: no such device, no permission (with what to do), another API version, or a
  // capability that plumb needs is missing (named).
  static Result<Kvm> open(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  // The value of a capability, 0 when KVM does not have it.
  int capability(int number) const { return kvm_ioctl(fd(), KVM_CHECK_EXTENSION, number); }
  // A VM without memory, vCPUs or interrupt controllers.
  Result<UniqueFd> create_vm() const;
  // Bytes of the kvm_run area of a vCPU.
  Result<size_t> run_area_size() const;

 private:
  explicit Kvm(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace plumb
