#include "vmm/guest_memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>

#include "base/file.h"
#include "base/size.h"

namespace plumb {
namespace {

constexpr uint64_t kUnit = 2 * kMiB;

// The number after "NAME:" in /proc/meminfo, 0 when it is not there.
uint64_t meminfo(const std::string& text, std::string_view name) {
  const std::string key = fmt::format("\n{}:", name);
  size_t at = text.find(key);
  if (at == std::string::npos) return 0;
  at = text.find_first_not_of(' ', at + key.size());
  if (at == std::string::npos) return 0;
  uint64_t value = 0;
  std::from_chars(text.data() + at, text.data() + text.size(), value);
  return value;
}

// Linux overcommits: without this check a guest that is too large is found out by the OOM killer
// once it runs, not by its owner when it starts.
Result<> check_fits(const GuestMemory::Config& config) {
  const std::string text = "\n" + read_attribute("/proc/meminfo");
  if (text.size() == 1) return {};  // not ours to read: at a reboot, of a guest that has fitted
  const std::string wanted = format_size(config.size_bytes);
  if (config.huge_pages) {
    const uint64_t free = meminfo(text, "HugePages_Free");
    const uint64_t reserved = std::min(meminfo(text, "HugePages_Rsvd"), free);
    if (meminfo(text, "Hugepagesize") * kKiB != kUnit) {
      return failed(
          "guest memory in huge pages needs 2 MiB pages, and this host's have another "
          "size; leave huge pages off");
    }
    if ((free - reserved) * kUnit < config.size_bytes) {
      return failed(
          "guest memory of {} needs {} huge pages and the host has {} free; raise "
          "vm.nr_hugepages, or leave huge pages off",
          wanted, config.size_bytes / kUnit, free - reserved);
    }
    return {};
  }
  const uint64_t available = meminfo(text, "MemAvailable") * kKiB;
  if (available != 0 && available < config.size_bytes) {
    return failed(
        "guest memory of {} does not fit: the host has {} available; give the guest "
        "less, or free memory",
        wanted, format_size(available));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(const Config& config) {
  if (config.size_bytes == 0 || config.size_bytes % kUnit != 0) {
    return usage_error("guest memory of {} bytes is not a multiple of 2 MiB", config.size_bytes);
  }
  TRY(check_fits(config));
  std::unique_ptr<GuestMemory> memory(new GuestMemory);
  const unsigned huge = config.huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  memory->fd_ = UniqueFd(::memfd_create("plumb-guest", MFD_CLOEXEC | huge));
  if (!memory->fd_) return os_error(errno, "guest memory cannot be made");
  if (::ftruncate(memory->fd_.get(), static_cast<off_t>(config.size_bytes)) != 0) {
    return os_error(errno, "guest memory of {} cannot be made", format_size(config.size_bytes));
  }
  const uint64_t low = std::min(config.size_bytes, kHoleStart);
  memory->regions_.push_back({.start = 0, .size_bytes = low});
  if (config.size_bytes > low) {
    memory->regions_.push_back(
        {.start = kHoleEnd, .size_bytes = config.size_bytes - low, .file_offset = low});
  }
  for (Region& region : memory->regions_) {
    // Huge pages are reserved here: without that a shortage later would be a SIGBUS.
    const int flags = MAP_SHARED | (config.huge_pages ? 0 : MAP_NORESERVE);
    void* mapped = ::mmap(nullptr, region.size_bytes, PROT_READ | PROT_WRITE, flags,
                          memory->fd_.get(), static_cast<off_t>(region.file_offset));
    if (mapped == MAP_FAILED) {
      return os_error(errno, "guest memory of {} cannot be mapped", format_size(config.size_bytes));
    }
    region.host = static_cast<std::byte*>(mapped);
    // A core file of ours shows our state; the guest's secrets stay out of it.
    ::madvise(mapped, region.size_bytes, MADV_DONTDUMP);
  }
  memory->size_bytes_ = config.size_bytes;
  return memory;
}

GuestMemory::~GuestMemory() {
  for (const Region& region : regions_) {
    if (region.host != nullptr) ::munmap(region.host, region.size_bytes);
  }
}

std::byte* GuestMemory::at(GuestAddress address, uint64_t length) const {
  if (length == 0) return nullptr;
  for (const Region& region : regions_) {
    if (address < region.start) continue;
    const uint64_t offset = address - region.start;
    if (offset < region.size_bytes && length <= region.size_bytes - offset) {
      return region.host + offset;
    }
  }
  return nullptr;
}

}  // namespace plumb
