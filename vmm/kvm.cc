#include "vmm/kvm.h"

#include <fcntl.h>

namespace plumb {
namespace {

struct Need {
  int capability;
  const char* name;
};

// All of them are in every kernel since 4.11, but not in every KVM work-alike.
constexpr Need kNeeds[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_IRQCHIP, "an in-kernel interrupt controller"},
    {KVM_CAP_PIT2, "an in-kernel timer"},
    {KVM_CAP_SET_TSS_ADDR, "a settable TSS address"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "a settable identity map"},
    {KVM_CAP_EXT_CPUID, "CPUID masks"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
};

Error open_error(const std::string& path, int os_errno) {
  switch (os_errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return Error{ErrorKind::kFailed, os_errno,
                   fmt::format("{} is missing: turn on virtualisation in the firmware and load "
                               "kvm_intel or kvm_amd (in a VM: allow nested virtualisation)",
                               path)};
    case EACCES:
    case EPERM:
      return Error{ErrorKind::kFailed, os_errno,
                   fmt::format("no permission to use {}: add the user to the group kvm "
                               "(usermod -aG kvm USER) and log in again",
                               path)};
    default:
      return os_error(os_errno, "{} cannot be opened", path);
  }
}

}  // namespace

Result<Kvm> Kvm::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return open_error(path, errno);
  const int version = kvm_ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) return os_error(errno, "{} does not answer as KVM", path);
  if (version != KVM_API_VERSION) {
    return failed("{} speaks KVM API version {}, and plumb needs {}", path, version,
                  KVM_API_VERSION);
  }
  Kvm kvm(std::move(fd));
  for (const Need& need : kNeeds) {
    if (kvm.capability(need.capability) <= 0) {
      return failed("{} lacks {}, which plumb needs: use a newer kernel", path, need.name);
    }
  }
  return kvm;
}

Result<UniqueFd> Kvm::create_vm() const {
  UniqueFd vm(kvm_ioctl(fd(), KVM_CREATE_VM, 0UL));
  if (!vm) return os_error(errno, "KVM cannot create a VM");
  return vm;
}

Result<size_t> Kvm::run_area_size() const {
  const int size = kvm_ioctl(fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) return os_error(errno, "KVM does not say the size of its run area");
  return static_cast<size_t>(size);
}

}  // namespace plumb
