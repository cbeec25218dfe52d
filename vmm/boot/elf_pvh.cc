// Sources: System V ABI, chapters 4 and 5; Xen docs/misc/pvh.pandoc; Xen public/elfnote.h.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "base/endian.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/layout.h"

namespace plumb {
namespace {

constexpr uint32_t kXenElfnotePhys32Entry = 18;
constexpr std::string_view kXen{"Xen\0", 4};
// More program headers than any linker makes for a kernel.
constexpr uint16_t kMaxProgramHeaders = 128;
// Linux takes 2047 characters, and nothing in a PVH image says otherwise.
constexpr uint32_t kCommandLineMax = 2047;

// The bytes [offset, offset + length) of the file, or nothing.
std::optional<std::span<const std::byte>> part(std::span<const std::byte> file, uint64_t offset,
                                               uint64_t length) {
  if (offset > file.size() || length > file.size() - offset) return std::nullopt;
  return file.subspan(offset, length);
}

template <typename T>
std::optional<T> read_at(std::span<const std::byte> file, uint64_t offset) {
  const auto bytes = part(file, offset, sizeof(T));
  if (!bytes) return std::nullopt;
  T value;
  std::memcpy(&value, bytes->data(), sizeof(T));
  return value;
}

uint64_t aligned4(uint64_t value) { return (value + 3) & ~3ULL; }

// The entry point in the notes of one PT_NOTE segment.
std::optional<uint64_t> find_entry(std::span<const std::byte> notes) {
  while (true) {
    const auto note = read_at<Elf64_Nhdr>(notes, 0);  // the same layout in 32-bit files
    if (!note) return std::nullopt;
    const uint64_t name_at = sizeof(*note);
    const uint64_t desc_at = name_at + aligned4(note->n_namesz);
    const uint64_t end = desc_at + aligned4(note->n_descsz);
    const auto name = part(notes, name_at, note->n_namesz);
    const auto desc = part(notes, desc_at, note->n_descsz);
    if (!name || !desc) return std::nullopt;
    const bool is_xen =
        name->size() == kXen.size() && std::memcmp(name->data(), kXen.data(), kXen.size()) == 0;
    if (is_xen && note->n_type == kXenElfnotePhys32Entry) {
      if (desc->size() == 8) return load_le<uint64_t>(desc->data());
      if (desc->size() == 4) return load_le<uint32_t>(desc->data());
    }
    if (end > notes.size()) return std::nullopt;
    notes = notes.subspan(end);
  }
}

template <typename Phdr>
Result<> add_segment(KernelImage& image, std::span<const std::byte> file, const Phdr& header) {
  const uint64_t address = header.p_paddr;
  const uint64_t file_bytes = header.p_filesz;
  const uint64_t memory_bytes = header.p_memsz;
  if (memory_bytes == 0) return {};
  if (file_bytes > memory_bytes || !part(file, header.p_offset, file_bytes)) {
    return failed("is truncated or damaged: a segment of {} bytes at {} is not in its {} bytes",
                  file_bytes, uint64_t{header.p_offset}, file.size());
  }
  if (address < layout::kHighRamStart) {
    return failed("wants to be loaded at {:#x}, and the memory below 1 MiB is in use", address);
  }
  if (memory_bytes > ~0ULL - address) {
    return failed("is damaged: a segment of {} bytes at {:#x} does not end", memory_bytes, address);
  }
  image.segments.push_back({.file_offset = header.p_offset,
                            .file_bytes = file_bytes,
                            .address = address,
                            .memory_bytes = memory_bytes});
  image.memory_end = std::max(image.memory_end, address + memory_bytes);
  return {};
}

bool overlap(const KernelImage::Segment& a, const KernelImage::Segment& b) {
  return a.address < b.address + b.memory_bytes && b.address < a.address + a.memory_bytes;
}

Result<> check_segments(const KernelImage& image) {
  if (image.segments.empty()) return failed("has nothing to load");
  for (size_t i = 0; i < image.segments.size(); ++i) {
    for (size_t j = i + 1; j < image.segments.size(); ++j) {
      if (overlap(image.segments[i], image.segments[j])) {
        return failed("is damaged: two of its segments overlap at {:#x}",
                      std::max(image.segments[i].address, image.segments[j].address));
      }
    }
  }
  const auto holds_entry = [&](const KernelImage::Segment& segment) {
    return image.entry >= segment.address && image.entry - segment.address < segment.memory_bytes;
  };
  if (std::none_of(image.segments.begin(), image.segments.end(), holds_entry)) {
    return failed("is damaged: its PVH entry point {:#x} is in none of its segments", image.entry);
  }
  return {};
}

template <typename Ehdr, typename Phdr>
Result<KernelImage> parse(std::span<const std::byte> file) {
  const auto header = read_at<Ehdr>(file, 0);
  if (!header) return failed("is truncated: it ends within its ELF header");
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
    return failed("is an ELF file, but not an executable one");
  }
  if (header->e_machine != EM_X86_64 && header->e_machine != EM_386) {
    return failed("is an ELF file for another processor (machine {})", uint16_t{header->e_machine});
  }
  if (header->e_phentsize != sizeof(Phdr) || header->e_phnum > kMaxProgramHeaders) {
    return failed("is damaged: it has {} program headers of {} bytes", uint16_t{header->e_phnum},
                  uint16_t{header->e_phentsize});
  }
  KernelImage image;
  image.kind = KernelImage::Kind::kPvh;
  image.initrd_max = GuestMemory::kHoleStart - 1;
  image.command_line_max = kCommandLineMax;
  std::optional<uint64_t> entry;
  std::vector<Phdr> to_load;
  for (uint64_t i = 0; i < header->e_phnum; ++i) {
    // e_phoff may be near 2^64: the offset is checked before anything is added to it.
    const auto table = part(file, header->e_phoff, (i + 1) * sizeof(Phdr));
    if (!table) return failed("is truncated: its program headers are beyond its end");
    const auto program = *read_at<Phdr>(*table, i * sizeof(Phdr));
    if (program.p_type == PT_LOAD) {
      to_load.push_back(program);
    } else if (program.p_type == PT_NOTE && !entry) {
      const auto notes = part(file, program.p_offset, program.p_filesz);
      if (notes) entry = find_entry(*notes);
    }
  }
  // First of all: most ELF files are programs, and that is what their owner should hear.
  if (!entry) return failed("is an ELF file without a PVH entry note, so it cannot be booted");
  for (const Phdr& program : to_load) TRY(add_segment(image, file, program));
  image.entry = *entry;
  TRY(check_segments(image));
  return image;
}

}  // namespace

bool is_elf(std::span<const std::byte> file) {
  return file.size() >= EI_NIDENT && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

Result<KernelImage> parse_pvh_elf(std::span<const std::byte> file) {
  if (!is_elf(file)) return failed("is not an ELF file");
  if (file[EI_DATA] != std::byte{ELFDATA2LSB}) return failed("is a big-endian ELF file");
  if (file[EI_CLASS] == std::byte{ELFCLASS64}) return parse<Elf64_Ehdr, Elf64_Phdr>(file);
  if (file[EI_CLASS] == std::byte{ELFCLASS32}) return parse<Elf32_Ehdr, Elf32_Phdr>(file);
  return failed("is an ELF file of unknown class {}", static_cast<int>(file[EI_CLASS]));
}

}  // namespace plumb
