#include "vmm/boot/kernel_image.h"

#include <catch2/catch.hpp>
#include <random>

#include "tests/fakes/kernel_images.h"

using namespace plumb;
using Catch::Matchers::Contains;

namespace {

std::string error_of(const Bytes& file) {
  Result<KernelImage> parsed = parse_kernel(file);
  return parsed ? "" : parsed.error().message;
}

// What every accepted image promises to the loader.
void check_promises(const KernelImage& image, size_t file_size) {
  REQUIRE(!image.segments.empty());
  for (const auto& segment : image.segments) {
    CHECK(segment.file_bytes <= segment.memory_bytes);
    CHECK(segment.file_offset <= file_size);
    CHECK(segment.file_bytes <= file_size - segment.file_offset);
    CHECK(segment.address >= 0x100000);
    CHECK(segment.address + segment.memory_bytes > segment.address);
    CHECK(segment.address + segment.memory_bytes <= image.memory_end);
  }
}

template <typename Change>
Bytes changed_elf(Change change) {
  Bytes file = TestPvhElf{}.build();
  Elf64_Phdr load;
  std::memcpy(&load, &file[kTestLoadHeaderAt], sizeof(load));
  change(load);
  put(file, kTestLoadHeaderAt, load);
  return file;
}

}  // namespace

TEST_CASE("a bzImage is loaded at its preferred address and entered at its 64-bit entry") {
  const Bytes file = TestBzImage{}.build();
  Result<KernelImage> image = parse_kernel(file);
  REQUIRE(image);
  CHECK(image->kind == KernelImage::Kind::kBzImage);
  CHECK(image->entry == 0x1000200);
  REQUIRE(image->segments.size() == 1);
  CHECK(image->segments[0].file_offset == 4 * 512);
  CHECK(image->segments[0].file_bytes == 2048);
  CHECK(image->segments[0].address == 0x1000000);
  CHECK(image->memory_end == 0x1100000);
  CHECK(image->initrd_max == 0x7fffffff);
  CHECK(image->command_line_max == 2047);
  // From 0x1f1 to where the jump at 0x200 goes.
  CHECK(image->setup_header.size() == 0x202 + 0x6a - 0x1f1);
  check_promises(*image, file.size());
}

TEST_CASE("a bzImage of zero setup sectors has four") {
  Bytes file = TestBzImage{.setup_sects = 4}.build();
  put<uint8_t>(file, 0x1f1, 0);
  Result<KernelImage> image = parse_kernel(file);
  REQUIRE(image);
  CHECK(image->segments[0].file_offset == 5 * 512);
}

TEST_CASE("a bzImage whose last paragraph is not whole is accepted") {
  Bytes file = TestBzImage{}.build();
  file.resize(file.size() - 15);
  REQUIRE(parse_kernel(file));
  file.resize(file.size() - 1);
  CHECK_THAT(error_of(file), Contains("is truncated"));
}

TEST_CASE("a bzImage that cannot be booted says why") {
  CHECK_THAT(error_of(TestBzImage{.version = 0x020b}.build()), Contains("boot protocol 2.11"));
  CHECK_THAT(error_of(TestBzImage{.xloadflags = 0}.build()), Contains("32-bit kernel"));
  CHECK_THAT(error_of(TestBzImage{.loadflags = 0}.build()), Contains("zImage"));
  CHECK_THAT(error_of(TestBzImage{.pref_address = 0x1000}.build()), Contains("is damaged"));
  CHECK_THAT(error_of(TestBzImage{.pref_address = ~0ULL}.build()), Contains("is damaged"));
  CHECK_THAT(error_of(TestBzImage{.init_size = 0}.build()), Contains("is damaged"));
  CHECK_THAT(error_of(TestBzImage{.syssize_paragraphs = 0}.build()), Contains("is truncated"));
}

TEST_CASE("a bzImage cut anywhere is refused") {
  const Bytes file = TestBzImage{}.build();
  for (size_t size = 0; size + 16 <= file.size(); ++size) {
    const Bytes cut(file.begin(), file.begin() + static_cast<ptrdiff_t>(size));
    INFO("cut to " << size);
    REQUIRE_FALSE(parse_kernel(cut));
  }
}

TEST_CASE(
    "an ELF file with a PVH note is loaded by its segments and entered at the note's address") {
  for (const bool wide : {false, true}) {
    const Bytes file = TestPvhElf{.entry = 0x100004, .entry_is_64_bit = wide}.build();
    Result<KernelImage> image = parse_kernel(file);
    REQUIRE(image);
    CHECK(image->kind == KernelImage::Kind::kPvh);
    CHECK(image->entry == 0x100004);
    REQUIRE(image->segments.size() == 1);
    CHECK(image->segments[0].file_bytes == 16);
    CHECK(image->segments[0].memory_bytes == 16 + 4096);
    CHECK(image->memory_end == 0x100000 + 16 + 4096);
    check_promises(*image, file.size());
  }
}

TEST_CASE("an ELF file that cannot be booted says why") {
  CHECK_THAT(error_of(TestPvhElf{.note_type = 1}.build()), Contains("without a PVH entry note"));
  CHECK_THAT(error_of(TestPvhElf{.address = 0x8000, .entry = 0x8000}.build()),
             Contains("below 1 MiB"));
  CHECK_THAT(error_of(TestPvhElf{.entry = 0x200000}.build()), Contains("in none of its segments"));
  Bytes other = TestPvhElf{}.build();
  put<uint16_t>(other, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
  CHECK_THAT(error_of(other), Contains("another processor"));
  Bytes object = TestPvhElf{}.build();
  put<uint16_t>(object, offsetof(Elf64_Ehdr, e_type), ET_REL);
  CHECK_THAT(error_of(object), Contains("not an executable"));
  Bytes big_endian = TestPvhElf{}.build();
  big_endian[EI_DATA] = std::byte{ELFDATA2MSB};
  CHECK_THAT(error_of(big_endian), Contains("big-endian"));
  Bytes classless = TestPvhElf{}.build();
  classless[EI_CLASS] = std::byte{9};
  CHECK_THAT(error_of(classless), Contains("unknown class"));
}

TEST_CASE("ELF headers that point out of the file or past the end of memory are refused") {
  CHECK_THAT(error_of(changed_elf([](auto& load) { load.p_offset = ~0ULL; })), Contains("damaged"));
  CHECK_THAT(error_of(changed_elf([](auto& load) { load.p_filesz = ~0ULL; })), Contains("damaged"));
  CHECK_THAT(error_of(changed_elf([](auto& load) { load.p_memsz = ~0ULL; })),
             Contains("does not end"));
  CHECK_THAT(error_of(changed_elf([](auto& load) { load.p_memsz = 1; })), Contains("damaged"));
  CHECK_THAT(error_of(changed_elf([](auto& load) { load.p_memsz = load.p_filesz = 0; })),
             Contains("nothing to load"));
  Bytes far_table = TestPvhElf{}.build();
  put<uint64_t>(far_table, offsetof(Elf64_Ehdr, e_phoff), ~0ULL - 8);
  CHECK_THAT(error_of(far_table), Contains("is truncated"));
  Bytes many = TestPvhElf{}.build();
  put<uint16_t>(many, offsetof(Elf64_Ehdr, e_phnum), 0xffff);
  CHECK_THAT(error_of(many), Contains("program headers"));
}

TEST_CASE("overlapping ELF segments are refused") {
  Bytes file = TestPvhElf{}.build();
  Elf64_Phdr load;
  std::memcpy(&load, &file[kTestLoadHeaderAt], sizeof(load));
  load.p_paddr += 8;
  // In the note's place, so that there are two segments.
  put(file, kTestLoadHeaderAt + sizeof(load), load);
  const std::string error = error_of(file);
  CHECK_THAT(error, Contains("overlap") || Contains("without a PVH entry note"));
}

TEST_CASE("PVH notes with impossible lengths end the search, not the program") {
  for (const uint32_t length : {0xffffffffU, 0xfffffffdU, 0x7fffffffU, 13U}) {
    Bytes name = TestPvhElf{}.build();
    put<uint32_t>(name, TestPvhElf::kNoteAt, length);
    CHECK_THAT(error_of(name), Contains("without a PVH entry note"));
    Bytes desc = TestPvhElf{}.build();
    put<uint32_t>(desc, TestPvhElf::kNoteAt + 4, length);
    CHECK_THAT(error_of(desc), Contains("without a PVH entry note"));
  }
}

TEST_CASE("what is no kernel at all is said to be none") {
  CHECK_THAT(error_of({}), Contains("not a kernel"));
  CHECK_THAT(error_of(to_bytes("#!/bin/sh\necho hello\n")), Contains("not a kernel"));
  CHECK_THAT(error_of(Bytes(65536)), Contains("not a kernel"));
}

TEST_CASE("damaged kernels are refused or keep the parser's promises") {
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const Bytes good[] = {TestBzImage{}.build(), TestPvhElf{}.build()};
  for (int round = 0; round < 20000; ++round) {
    Bytes file = good[round % 2];
    const size_t headers = std::min<size_t>(file.size(), round % 2 == 0 ? 0x290 : 0x100);
    for (int changes = 1 + static_cast<int>(random() % 4); changes > 0; --changes) {
      file[random() % headers] = static_cast<std::byte>(random());
    }
    Result<KernelImage> image = parse_kernel(file);
    if (image) check_promises(*image, file.size());
  }
}
