#include "cli/source_message.h"

#include <fcntl.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

UniqueFd some_fd() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

std::vector<UniqueFd> some_fds(size_t count) {
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < count; ++i) fds.push_back(some_fd());
  return fds;
}

DiskSource some_source() {
  DiskSource source;
  source.label = "LUN naa.600";
  source.device = "/dev/sdb";
  source.wwn = "naa.600";
  source.claim = {.read_only = true, .allow_weak_identity = true, .shared = true};
  source.fua = true;
  source.transfer_limit_bytes = 1 << 19;
  source.facts.info = {.size_bytes = 1 << 20,
                       .logical_block_size = 4096,
                       .physical_block_size = 4096,
                       .optimal_io_size = 65536,
                       .memory_alignment = 512,
                       .max_discard_bytes = 1 << 19,
                       .discard_granularity = 8192,
                       .max_write_zeroes_bytes = 1 << 18,
                       .read_only = true,
                       .volatile_cache = true};
  source.facts.block_device = true;
  source.facts.shared_flush_depth = 8;
  return source;
}

}  // namespace

TEST_CASE("a source arrives as it was sent, with its descriptors in their order") {
  DiskSource source = some_source();
  source.fd = some_fd();
  const bool mapped = GENERATE(true, false);
  const bool overlay = GENERATE(true, false);
  if (mapped) source.mapping = some_fd();
  if (overlay) source.overlay = some_fd();
  CHECK(source_fds(source).front() == source.fd.get());

  std::vector<UniqueFd> fds = some_fds(source_fds(source).size());
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  Result<DiskSource> got = source_from_json(source_to_json(source), std::move(fds));
  REQUIRE(got.ok());
  CHECK(source_to_json(*got) == source_to_json(source));
  CHECK(got->facts.info.max_write_zeroes_bytes == 1 << 18);
  CHECK(source_fds(*got) == numbers);
  CHECK(got->mapping.valid() == mapped);
  CHECK(got->overlay.valid() == overlay);
}

TEST_CASE("what is no source is refused, and its descriptors are closed") {
  nlohmann::json json = source_to_json(some_source());
  size_t count = 1;
  SECTION("no descriptor") { count = 0; }
  SECTION("too many") { count = 2; }
  SECTION("an overlay without its descriptor") { json["overlay"] = true; }
  SECTION("not an object") { json = 7; }
  SECTION("a fact is missing") { json["facts"].erase("read_only"); }
  SECTION("a fact of another type") { json["facts"]["size_bytes"] = "large"; }
  SECTION("empty") { json["facts"]["size_bytes"] = 0; }
  SECTION("part of a block") { json["facts"]["size_bytes"] = 4097; }
  SECTION("blocks of no size") { json["facts"]["logical_block_size"] = 0; }
  SECTION("an alignment that is none") { json["facts"]["memory_alignment"] = 3; }
  std::vector<UniqueFd> fds = some_fds(count);
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  CHECK_FALSE(source_from_json(json, std::move(fds)).ok());
  for (const int number : numbers) CHECK(::fcntl(number, F_GETFD) == -1);
}

}  // namespace plumb
