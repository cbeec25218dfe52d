// SnapshotRun: one snapshot under way; the steps of coordinator.h.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/coordinator.h"
#include "snapshot/lease_client.h"

namespace plumb {

class SnapshotRun {
 public:
  SnapshotRun(const Coordinator::Config& config, const SnapshotRequest& request);
  ~SnapshotRun();
  SnapshotRun(const SnapshotRun&) = delete;
  SnapshotRun& operator=(const SnapshotRun&) = delete;

  // Connects to all guests and finds all disks; nothing is changed.
  Result<> open();
  const SnapshotPlan& plan() const { return plan_; }
  // All of it, open() included.
  Result<SnapshotOutcome> take();

 private:
  struct Member {
    std::string vm;
    std::optional<LeaseClient> lease;
    StandStill still;
    bool held = false;
    uint64_t freeze_ms = 0;
    uint64_t frozen_ms = 0;
    uint64_t held_us = 0;

    bool frozen() const { return still.frozen.has_value(); }
  };
  struct ArrayWork {
    ArrayProvider* array = nullptr;
    std::vector<ArrayProvider::SnapshotRequest> requests;
    std::unique_ptr<PreparedSnapshot> prepared;
    std::vector<ArraySnapshot> taken;
  };

  Result<> open_member(Member& member);
  Result<PlannedMember> plan_member(const Member& member, const nlohmann::json& said);
  Result<PlannedDisk> plan_disk(const std::string& vm, const nlohmann::json& medium);
  void ask_guests();
  Result<> prepare();
  Result<> copy();
  Result<> freeze();
  Result<> hold();
  Result<> take_all();
  Result<> keep(const std::vector<OverlayArray::Kept>& disks);
  Result<> let_go_overlay(const std::string& disk, const std::string& uuid);
  std::optional<size_t> member_with(const std::string& disk) const;
  Result<> release();
  void thaw();
  Result<> finish();
  void let_go();
  Error give_up(Error error, SnapshotJournal& journal);
  void judge(SnapshotOutcome& outcome) const;
  Result<> check_required() const;
  Result<SnapshotSet> make_set() const;
  const ArraySnapshot& taken_for(const PlannedDisk& disk) const;
  Result<> step(const char* phase);
  void late_step(const char* phase);

  const Coordinator::Config& config_;
  const SnapshotRequest& request_;
  SnapshotPlan plan_;
  OverlayArray::Vms other_vms_;  // those that are not ours
  std::vector<Member> members_;
  std::vector<ArrayWork> work_;
  std::vector<std::string> warnings_;
  std::vector<std::string> still_frozen_;
  std::string taken_at_;
  uint64_t copied_us_ = 0;
  std::string unique_;  // of this run, on whichever host: the arrays' names are made of it
};

}  // namespace plumb
