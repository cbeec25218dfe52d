#include "vmm/boot/loader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/size.h"
#include "vmm/boot/boot_params.h"
#include "vmm/boot/cpu_tables.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/layout.h"

namespace plumb {
namespace {

constexpr uint64_t kPage = 4096;

struct File {
  int fd = -1;
  uint64_t size = 0;
};

// As it is now: it may have been written since it was opened.
Result<File> examine(int fd, const char* what, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return os_error(errno, "{} {} cannot be examined", what, path);
  if (S_ISDIR(status.st_mode)) return failed("{} {} is a folder, not a file", what, path);
  if (!S_ISREG(status.st_mode)) return failed("{} {} is not a regular file", what, path);
  if (status.st_size == 0) return failed("{} {} is empty", what, path);
  return File{fd, static_cast<uint64_t>(status.st_size)};
}

Result<UniqueFd> open_regular(const char* what, const std::string& path) {
  // O_NONBLOCK: a pipe is refused, not waited for.
  UniqueFd fd = TRY(open_file(what, path, O_RDONLY | O_NONBLOCK));
  TRY(examine(fd.get(), what, path));
  return fd;
}

// Straight into guest memory: mapping the file and copying would count its pages as ours.
Result<> read_part(const File& file, const char* what, const std::string& path, uint64_t offset,
                   std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t done = ::pread(file.fd, to.data(), to.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return os_error(errno, "{} {} cannot be read", what, path);
    if (done == 0) return failed("{} {} became shorter while it was read", what, path);
    offset += static_cast<uint64_t>(done);
    to = to.subspan(static_cast<size_t>(done));
  }
  return {};
}

// A mapping of the file that lasts as long as it is parsed.
class FileView {
 public:
  explicit FileView(const File& file)
      : size_(file.size), data_(::mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.fd, 0)) {}
  ~FileView() {
    if (ok()) ::munmap(data_, size_);
  }
  FileView(const FileView&) = delete;
  FileView& operator=(const FileView&) = delete;

  bool ok() const { return data_ != MAP_FAILED; }
  std::span<const std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  size_t size_;
  void* data_;
};

Result<KernelImage> load_kernel_file(const GuestMemory& memory, const BootFiles& files) {
  const std::string& path = files.kernel_path;
  const File file = TRY(examine(files.kernel.get(), "kernel", path));
  KernelImage image;
  {
    const FileView view(file);
    if (!view.ok()) return os_error(errno, "kernel {} cannot be mapped", path);
    Result<KernelImage> parsed = parse_kernel(view.bytes());
    if (!parsed) return failed("kernel {} {}", path, parsed.error().message);
    image = std::move(parsed).value();
  }
  for (const KernelImage::Segment& segment : image.segments) {
    std::byte* to = memory.at(segment.address, segment.memory_bytes);
    if (to == nullptr) {
      return failed("kernel {} needs memory up to {} to start, and the guest has {}; give it more",
                    path, format_size(segment.address + segment.memory_bytes),
                    format_size(memory.size_bytes()));
    }
    TRY(read_part(file, "kernel", path, segment.file_offset, {to, segment.file_bytes}));
  }
  return image;
}

// As high as it may be: below, the kernel has room to unpack itself.
Result<BootModule> load_initrd(const GuestMemory& memory, const KernelImage& image,
                               const BootFiles& files) {
  const std::string& path = files.initrd_path;
  const File file = TRY(examine(files.initrd.get(), "initrd", path));
  const uint64_t low_end = memory.regions().front().size_bytes;
  const uint64_t end = std::min(low_end, image.initrd_max + 1);
  const uint64_t start = file.size > end ? 0 : (end - file.size) & ~(kPage - 1);
  std::byte* to = memory.at(start, file.size);
  if (start < image.memory_end || to == nullptr) {
    return failed("initrd {} of {} does not fit beside the kernel in a guest with {}; give it more",
                  path, format_size(file.size), format_size(memory.size_bytes()));
  }
  TRY(read_part(file, "initrd", path, 0, {to, file.size}));
  return BootModule{.start = start, .size = file.size};
}

Result<> write_command_line(const GuestMemory& memory, const KernelImage& image,
                            const std::string& line) {
  if (line.size() > image.command_line_max) {
    return usage_error("the kernel command line has {} characters, and this kernel takes {}",
                       line.size(), image.command_line_max);
  }
  std::byte* to = memory.at(layout::kCommandLine, line.size() + 1);
  if (to == nullptr || layout::kCommandLine + line.size() >= layout::kLowRamEnd) {
    return usage_error("the kernel command line has {} characters, which is too long", line.size());
  }
  std::memcpy(to, line.c_str(), line.size() + 1);
  return {};
}

}  // namespace

Result<BootFiles> open_boot_files(const std::string& kernel_path, const std::string& initrd_path) {
  BootFiles files;
  files.kernel_path = kernel_path;
  files.kernel = TRY(open_regular("kernel", kernel_path));
  files.initrd_path = initrd_path;
  if (!initrd_path.empty()) files.initrd = TRY(open_regular("initrd", initrd_path));
  return files;
}

Result<CpuStart> load_guest(const GuestMemory& memory, const BootFiles& files,
                            const BootConfig& config) {
  const KernelImage image = TRY(load_kernel_file(memory, files));
  TRY(write_command_line(memory, image, config.command_line));
  BootModule initrd;
  if (files.initrd) initrd = TRY(load_initrd(memory, image, files));

  const bool long_mode = image.kind == KernelImage::Kind::kBzImage;
  const BootInfo info{.memory_bytes = memory.size_bytes(),
                      .initrd = initrd,
                      .command_line = layout::kCommandLine,
                      .rsdp = config.rsdp};
  CpuStart start{.mode = long_mode ? CpuStart::Mode::kLong64 : CpuStart::Mode::kProtected32,
                 .instruction = image.entry,
                 .gdt = layout::kGdt};
  write_gdt(memory, layout::kGdt, long_mode);
  if (long_mode) {
    start.page_tables = layout::kPageTables;
    write_identity_page_tables(memory, layout::kPageTables);
    start.argument = layout::kZeroPage;
    write_zero_page(memory, layout::kZeroPage, image.setup_header, info);
  } else {
    start.argument = layout::kPvhStartInfo;
    write_pvh_start_info(memory, layout::kPvhStartInfo, info);
  }
  return start;
}

}  // namespace plumb
