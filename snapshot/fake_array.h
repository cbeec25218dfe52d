// FakeArray: an array in memory, of LUNs with given WWNs, that notes what it is asked and fails
// where a test has it. The rules of a provider are held to real ones by
// tests/conformance/array_suite.h; this one only shows a coordinator's steps.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "snapshot/arrays/array_provider.h"

namespace plumb {

struct FakeArrayState {
  std::set<std::string> wwns;
  std::map<std::string, std::string> snapshots;  // name → volume
  std::function<Result<>(const char* step)> at;  // "prepare", "take", "finish"; empty: all is well
  bool reachable = true;

  Result<> reached(const char* step) const { return at ? at(step) : Result<>(); }
};

class FakeArray final : public ArrayProvider {
 public:
  FakeArray(std::string name, FakeArrayState& state) : name_(std::move(name)), state_(state) {}

  const std::string& name() const override { return name_; }
  Abilities abilities() const override { return {}; }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override {
    if (!state_.reachable) return failed("array {} does not answer", name_);
    if (!state_.wwns.contains(medium.wwn)) return std::optional<ArrayVolume>();
    return std::optional(ArrayVolume{medium.wwn, medium.wwn, medium.size_bytes});
  }

  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override {
    if (Result<> done = state_.reached("prepare"); !done) return std::move(done).error();
    return std::unique_ptr<PreparedSnapshot>(
        std::make_unique<Prepared>(state_, std::vector(requests.begin(), requests.end())));
  }

  Result<ArrayVolume> clone(const std::string&, const std::string&) override { return unused(); }
  Result<ArrayVolume> create(const std::string&, uint64_t) override { return unused(); }
  Result<> restore(const std::string&, const std::string&) override { return unused(); }
  Result<MappedVolume> map(const std::string&) override { return unused(); }
  Result<> unmap(const std::string&) override { return {}; }
  Result<> remove(const std::string& id) override {
    if (!state_.reachable) return failed("array {} does not answer", name_);
    state_.snapshots.erase(id);
    return {};
  }
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override {
    if (!state_.reachable) return failed("array {} does not answer", name_);
    std::vector<ArraySnapshot> all;
    for (const auto& [name, volume] : state_.snapshots) {
      if (name.starts_with(prefix)) all.push_back({name, name, volume, 0, true});
    }
    return all;
  }
  Result<std::vector<ArrayVolume>> list_volumes(const std::string&) override { return unused(); }
  Result<ArrayCapacity> capacity() override { return ArrayCapacity{}; }
  Result<> health() override { return {}; }

 private:
  class Prepared final : public PreparedSnapshot {
   public:
    Prepared(FakeArrayState& state, std::vector<SnapshotRequest> requests)
        : state_(state), requests_(std::move(requests)) {}
    ~Prepared() override {
      if (finished_) return;
      for (const SnapshotRequest& one : requests_) state_.snapshots.erase(one.name);
    }
    Result<> take() override {
      for (const SnapshotRequest& one : requests_) state_.snapshots[one.name] = one.volume.id;
      return state_.reached("take");
    }
    Result<std::vector<ArraySnapshot>> finish() override {
      if (Result<> done = state_.reached("finish"); !done) return std::move(done).error();
      finished_ = true;
      std::vector<ArraySnapshot> all;
      for (const SnapshotRequest& one : requests_) {
        all.push_back({one.name, one.name, one.volume.id, one.volume.size_bytes, true});
      }
      return all;
    }

   private:
    FakeArrayState& state_;
    std::vector<SnapshotRequest> requests_;
    bool finished_ = false;
  };

  Error unused() const { return failed("array {} is a fake", name_); }

  std::string name_;
  FakeArrayState& state_;
};

}  // namespace plumb
