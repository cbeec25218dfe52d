#include "snapshot/arrays/copy_differences.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <map>

namespace plumb {
namespace {

// A device in memory; one write of it fails when asked.
class MemoryFile final : public CowFile {
 public:
  explicit MemoryFile(std::vector<std::byte> content) : content_(std::move(content)) {}

  const std::string& label() const override { return label_; }
  Result<> read(uint64_t offset, std::span<std::byte> to) override {
    if (offset + to.size() > content_.size()) return failed("it ends before");
    std::memcpy(to.data(), content_.data() + offset, to.size());
    return {};
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) override {
    if (writes_.size() == fails_at_) return failed("no more");
    writes_[offset] = from.size();
    std::memcpy(content_.data() + offset, from.data(), from.size());
    synced_ = false;
    return {};
  }
  Result<> sync() override {
    synced_ = true;
    return {};
  }
  Result<bool> has_writer() override { return false; }

  const std::vector<std::byte>& content() const { return content_; }
  const std::map<uint64_t, uint64_t>& writes() const { return writes_; }
  bool synced() const { return synced_; }
  void fail_at(size_t write) { fails_at_ = write; }

 private:
  const std::string label_ = "memory";
  std::vector<std::byte> content_;
  std::map<uint64_t, uint64_t> writes_;
  size_t fails_at_ = SIZE_MAX;
  bool synced_ = true;
};

constexpr uint64_t kBytes = (uint64_t{2} << 20U) + 12288;  // ends within a piece

std::vector<std::byte> pattern() {
  std::vector<std::byte> all(kBytes);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::byte>(i / 4096 * 7 + i);
  return all;
}

}  // namespace

TEST_CASE("only what differs is written, and all of it is the same then") {
  MemoryFile from(pattern());
  std::vector<std::byte> changed = pattern();
  for (const uint64_t at : {uint64_t{0}, uint64_t{70'000}, uint64_t{1} << 20U, kBytes - 1}) {
    changed[at] ^= std::byte{0x40};
  }
  MemoryFile to(changed);
  REQUIRE(copy_differences(from, to, kBytes).ok());
  CHECK(to.content() == from.content());
  CHECK(to.synced());
  CHECK(to.writes() == std::map<uint64_t, uint64_t>{
                           {0, 65536}, {65536, 65536}, {1U << 20U, 65536}, {2U << 20U, 12288}});
}

TEST_CASE("what is behind the end of the copied part stays") {
  MemoryFile from(std::vector<std::byte>(8192, std::byte{1}));
  MemoryFile to(std::vector<std::byte>(16384, std::byte{2}));
  REQUIRE(copy_differences(from, to, 8192).ok());
  CHECK(to.content()[8191] == std::byte{1});
  CHECK(to.content()[8192] == std::byte{2});
}

TEST_CASE("a copy that was cut short is gone on with") {
  MemoryFile from(pattern());
  MemoryFile to(std::vector<std::byte>(kBytes, std::byte{0}));
  to.fail_at(5);
  CHECK(copy_differences(from, to, kBytes).error().message == "no more");
  to.fail_at(SIZE_MAX);
  REQUIRE(copy_differences(from, to, kBytes).ok());
  CHECK(to.content() == from.content());
}

TEST_CASE("a device that ends early is an error, not a copy") {
  MemoryFile from(std::vector<std::byte>(4096));
  MemoryFile to(std::vector<std::byte>(8192));
  CHECK_FALSE(copy_differences(from, to, 8192).ok());
}

}  // namespace plumb
