// Kernel files made by a test: a bzImage, and an ELF file with a PVH note.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "base/endian.h"

namespace plumb {

using Bytes = std::vector<std::byte>;

template <typename T>
void put(Bytes& bytes, size_t at, T value) {
  if (bytes.size() < at + sizeof(T)) bytes.resize(at + sizeof(T));
  std::memcpy(&bytes[at], &value, sizeof(T));
}

inline Bytes to_bytes(std::string_view text) {
  const auto* from = reinterpret_cast<const std::byte*>(text.data());
  return {from, from + text.size()};
}

struct TestBzImage {
  uint16_t version = 0x020f;
  uint16_t xloadflags = 1;
  uint8_t loadflags = 1;
  uint8_t setup_sects = 3;
  uint32_t syssize_paragraphs = 128;  // 2048 bytes
  uint64_t pref_address = 0x1000000;
  uint32_t init_size = 0x100000;
  uint32_t command_line_max = 2047;

  // Offsets: Linux Documentation/arch/x86/boot.rst.
  Bytes build() const {
    Bytes file((setup_sects + 1) * 512U + syssize_paragraphs * 16U);
    put<uint8_t>(file, 0x1f1, setup_sects);
    put<uint32_t>(file, 0x1f4, syssize_paragraphs);
    put<uint16_t>(file, 0x1fe, 0xaa55);
    put<uint16_t>(file, 0x200, 0x6aeb);
    put<uint32_t>(file, 0x202, 0x53726448);  // HdrS
    put<uint16_t>(file, 0x206, version);
    put<uint8_t>(file, 0x211, loadflags);
    put<uint32_t>(file, 0x22c, 0x7fffffff);
    put<uint16_t>(file, 0x236, xloadflags);
    put<uint32_t>(file, 0x238, command_line_max);
    put<uint64_t>(file, 0x258, pref_address);
    put<uint32_t>(file, 0x260, init_size);
    return file;
  }
};

struct TestPvhElf {
  uint64_t address = 0x100000;
  uint64_t entry = 0x100000;
  Bytes code = Bytes(16);
  uint64_t extra_memory = 4096;
  uint32_t note_type = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
  bool entry_is_64_bit = false;

  static constexpr size_t kNoteAt = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
  static constexpr size_t kNoteSize = sizeof(Elf64_Nhdr) + 4 + 8;
  static constexpr size_t kCodeAt = 0x1000;

  Bytes build() const {
    Bytes file(kCodeAt);
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    put(file, 0, header);
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_offset = kCodeAt;
    load.p_paddr = address;
    load.p_filesz = code.size();
    load.p_memsz = code.size() + extra_memory;
    put(file, sizeof(Elf64_Ehdr), load);
    Elf64_Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = kNoteAt;
    note.p_filesz = kNoteSize;
    put(file, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), note);
    put(file, kNoteAt, Elf64_Nhdr{4, entry_is_64_bit ? 8U : 4U, note_type});
    put<uint32_t>(file, kNoteAt + sizeof(Elf64_Nhdr), 0x006e6558);  // "Xen"
    put<uint64_t>(file, kNoteAt + sizeof(Elf64_Nhdr) + 4, entry);
    file.insert(file.end(), code.begin(), code.end());
    return file;
  }
};

// One header of such a file, to be changed and put back.
inline constexpr size_t kTestLoadHeaderAt = sizeof(Elf64_Ehdr);

}  // namespace plumb
