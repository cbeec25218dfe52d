#include "snapshot/arrays/equallogic.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/program.h"
#include "base/uuid.h"
#include "snapshot/arrays/array_names.h"
#include "snapshot/arrays/eql_cli.h"
#include "snapshot/arrays/state_file.h"

namespace plumb {

// What plumb made, as the state file has it.
struct EqualLogicEntry {
  std::string name;
  std::string label;      // its name in the group
  bool snapshot = false;  // else a volume
  std::string volume;     // of a snapshot: the name of its volume in the group
  std::string of_id;      // and that volume's id
  uint64_t size_bytes = 0;
  bool whole = false;
  // Removed, but kept in the group as long as there are snapshots of it. Without a name.
  bool retired = false;

  std::string id() const { return name + "@" + label; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EqualLogicEntry, name, label, snapshot, volume, of_id,
                                   size_bytes, whole, retired)

namespace {

using nlohmann::json;
using Entries = std::vector<EqualLogicEntry>;
using Commands = std::vector<std::string>;
using Answers = std::vector<eql::Answer>;

constexpr uint64_t kMegabyte = uint64_t{1} << 20U;
constexpr size_t kLabelDigits = 26;
constexpr int kSessionExists = 15;  // iscsiadm(8)
constexpr int kNoSuchSession = 21;
constexpr auto kLookAgain = std::chrono::milliseconds(100);
constexpr auto kAppearPatience = std::chrono::seconds(30);

class Group {
 public:
  Group(EqualLogicConfig config, HostLuns host)
      : config_(std::move(config)),
        host_(std::move(host)),
        resolver_(config_.roots),
        file_(config_.name, config_.state_path, "equallogic") {}

  const EqualLogicConfig& config() const { return config_; }

  Error error(ErrorKind kind, const std::string& text) const {
    return make_error(kind, "array {} (EqualLogic {}): {}", config_.name, config_.address, text);
  }
  Error error(const std::string& text) const { return error(ErrorKind::kFailed, text); }

  Result<Entries> entries() const { return parse(TRY(file_.read())); }
  template <typename Change>
  Result<> change(Change change_entries) const {
    StateFile::Locked locked = TRY(file_.lock());
    Entries all = TRY(parse(locked.json()));
    TRY(change_entries(all));
    locked.json()["objects"] = all;
    return locked.store();
  }
  Result<std::optional<EqualLogicEntry>> entry(const std::string& id) const;
  Result<EqualLogicEntry> whole_snapshot(const std::string& id) const;
  // The name in the group of a volume's id.
  Result<std::string> volume(const std::string& id) const;
  Result<> reserve(Entries& fresh) const;
  Result<> mark_whole(const Entries& made) const;
  Result<> forget(const EqualLogicEntry& entry) const;

  // One session; each command has an answer, which may be an error.
  Result<Answers> ask(const Commands& commands, unsigned timeout_ms) const;
  // The same, but the first error is one.
  Result<Answers> run(const Commands& commands, unsigned timeout_ms) const;
  Result<Answers> run(const Commands& commands) const { return run(commands, config_.timeout_ms); }
  // "does not exist" is fine.
  Result<> run_if_there(const Commands& commands) const;
  Result<uint64_t> size_of(const std::string& volume) const;

  // How what stands behind these words is shown: "volume select V", "… snapshot select S".
  Result<MappedVolume> map(const std::string& select) const;
  Result<> unmap(const std::string& select) const;
  Result<> drop(const EqualLogicEntry& entry) const;
  Result<> remove(const EqualLogicEntry& entry) const;
  static std::string select(const EqualLogicEntry& entry) {
    return entry.snapshot ? select(entry.volume) + " snapshot select " + entry.label
                          : select(entry.label);
  }
  static std::string select(const std::string& volume) { return "volume select " + volume; }
  const HostLuns& host() const { return host_; }

 private:
  Result<Entries> parse(const json& state) const {
    try {
      return state.value("objects", Entries());
    } catch (const json::exception& cause) {
      return error(fmt::format("{} is damaged: {}", file_.path(), cause.what()));
    }
  }
  Result<int> iscsi(std::vector<std::string> arguments, int also_fine) const;
  std::string link_of(const std::string& target) const {
    return fmt::format("{}/disk/by-path/ip-{}:3260-iscsi-{}-lun-0", config_.roots.dev,
                       config_.address, target);
  }
  // The LUN behind the target, its multipath map rather than a path of it; none without one.
  std::optional<Lun> lun_of(const std::string& target) const;

  const EqualLogicConfig config_;
  const HostLuns host_;
  const LunResolver resolver_;
  const StateFile file_;
};

Result<std::optional<EqualLogicEntry>> Group::entry(const std::string& id) const {
  const Entries all = TRY(entries());
  const auto found = std::ranges::find(all, id, &EqualLogicEntry::id);
  return found == all.end() ? std::optional<EqualLogicEntry>() : std::optional(*found);
}

Result<EqualLogicEntry> Group::whole_snapshot(const std::string& id) const {
  const std::optional<EqualLogicEntry> found = TRY(entry(id));
  if (!found || !found->snapshot || !found->whole) {
    return error(fmt::format("there is no whole snapshot {}", id));
  }
  TRY(run({select(*found) + " show"}));
  return *found;
}

Result<std::string> Group::volume(const std::string& id) const {
  const std::optional<EqualLogicEntry> ours = TRY(entry(id));
  if (ours && ours->whole && !ours->snapshot) return ours->label;
  for (const auto& [wwn, name] : config_.luns) {
    if (name == id) return name;
  }
  return error(fmt::format("there is no whole volume {}", id));
}

Result<> Group::reserve(Entries& fresh) const {
  for (EqualLogicEntry& one : fresh) {
    std::string digits = TRY(Uuid::random()).text();
    std::erase(digits, '-');
    one.label = "plumb-" + digits.substr(0, kLabelDigits);
  }
  return change([&](Entries& all) -> Result<> {
    for (const EqualLogicEntry& one : fresh) {
      if (std::ranges::find(all, one.name, &EqualLogicEntry::name) != all.end()) {
        return name_taken(config_.name, one.name);
      }
      all.push_back(one);
    }
    return {};
  });
}

Result<> Group::mark_whole(const Entries& made) const {
  return change([&made](Entries& all) -> Result<> {
    for (EqualLogicEntry& one : all) {
      if (std::ranges::find(made, one.label, &EqualLogicEntry::label) != made.end()) {
        one.whole = true;
      }
    }
    return {};
  });
}

Result<> Group::forget(const EqualLogicEntry& entry) const {
  return change([&entry](Entries& all) -> Result<> {
    std::erase_if(all, [&](const EqualLogicEntry& one) { return one.label == entry.label; });
    return {};
  });
}

Result<Answers> Group::ask(const Commands& commands, unsigned timeout_ms) const {
  std::vector<std::string> words = {"-T",
                                    "-o",
                                    "BatchMode=yes",
                                    "-o",
                                    "StrictHostKeyChecking=yes",
                                    "-o",
                                    "ConnectTimeout=10",
                                    "-o",
                                    "ClearAllForwardings=yes"};
  if (!config_.known_hosts.empty()) {
    words.insert(words.end(), {"-o", "UserKnownHostsFile=" + config_.known_hosts});
  }
  words.insert(words.end(), {"-i", config_.key_file, "-p", std::to_string(config_.port), "-l",
                             config_.user, "--", config_.address});
  Result<ProgramAnswer> ran = run_program({.program = config_.ssh_program,
                                           .arguments = std::move(words),
                                           .input = eql::script(commands),
                                           .timeout_ms = timeout_ms});
  if (!ran) return error(ran.error().message);
  Result<Answers> answers = eql::answers(ran->output, config_.group, commands);
  if (answers) return answers;
  const std::string words_of_ssh = last_words(ran->errors);
  return error(words_of_ssh.empty() ? answers.error().message : "ssh: " + words_of_ssh);
}

Result<Answers> Group::run(const Commands& commands, unsigned timeout_ms) const {
  Answers answers = TRY(ask(commands, timeout_ms));
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].error.empty()) return error(commands[i] + ": " + answers[i].error);
  }
  return answers;
}

Result<> Group::run_if_there(const Commands& commands) const {
  const Answers answers = TRY(ask(commands, config_.timeout_ms));
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].error.empty() || answers[i].no_such()) continue;
    return error(commands[i] + ": " + answers[i].error);
  }
  return {};
}

Result<uint64_t> Group::size_of(const std::string& volume) const {
  const Answers answers = TRY(run({select(volume) + " show"}));
  Result<uint64_t> size = eql::size_bytes(answers[0].after("Size:"));
  if (size) return size;
  return error("volume " + volume + ": " + size.error().message);
}

Result<int> Group::iscsi(std::vector<std::string> arguments, int also_fine) const {
  const std::string what = arguments.back();
  Result<ProgramAnswer> ran = run_program({.program = config_.iscsi_program,
                                           .arguments = std::move(arguments),
                                           .timeout_ms = config_.timeout_ms});
  if (!ran) return error(ran.error().message);
  if (ran->exit_status == 0 || ran->exit_status == also_fine) return ran->exit_status;
  return error(fmt::format("iscsiadm {}: {}", what, last_words(ran->errors)));
}

std::optional<Lun> Group::lun_of(const std::string& target) const {
  std::error_code failure;
  const std::string name =
      std::filesystem::read_symlink(link_of(target), failure).filename().string();
  if (failure) return std::nullopt;
  for (Lun& lun : resolver_.list()) {
    const bool path = std::ranges::find(lun.paths, name, &LunPath::name) != lun.paths.end();
    if (lun.name == name || path) return std::move(lun);
  }
  return std::nullopt;
}

Result<MappedVolume> Group::map(const std::string& select) const {
  const Answers answers = TRY(run({select + " online", select + " show"}));
  const std::string target = answers[1].after("iSCSI Name:");
  if (target.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.:-") != std::string::npos ||
      !target.starts_with("iqn.")) {
    return error(fmt::format("{}: it has no iSCSI name", select));
  }
  if (!lun_of(target)) {
    const std::string portal = config_.address + ":3260";
    TRY(iscsi({"-m", "discovery", "-t", "sendtargets", "-p", portal}, 0));
    TRY(iscsi({"-m", "node", "-T", target, "-p", portal, "--login"}, kSessionExists));
  }
  const auto limit = std::chrono::steady_clock::now() + kAppearPatience;
  while (true) {
    if (const std::optional<Lun> lun = lun_of(target)) {
      return MappedVolume{lun->id.text(), TRY(host_.appear(lun->id))};
    }
    if (std::chrono::steady_clock::now() >= limit) {
      return error(fmt::format("{} does not come to this host", target));
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

Result<> Group::unmap(const std::string& select) const {
  const Answers answers = TRY(ask({select + " show"}, config_.timeout_ms));
  if (answers[0].no_such()) return {};
  if (!answers[0].error.empty()) return error(select + " show: " + answers[0].error);
  const std::string target = answers[0].after("iSCSI Name:");
  const std::optional<Lun> lun = lun_of(target);
  if (!lun) return {};
  Result<> gone = host_.vanish(lun->id);
  if (!gone) return error(gone.error().kind, gone.error().message);
  const std::string portal = config_.address + ":3260";
  TRY(iscsi({"-m", "node", "-T", target, "-p", portal, "--logout"}, kNoSuchSession));
  return {};
}

// A snapshot that was not renamed yet has its label in its description.
Result<> Group::drop(const EqualLogicEntry& entry) const {
  TRY(unmap(select(entry)));
  if (!entry.snapshot) {
    TRY(run_if_there({select(entry) + " offline", "volume delete " + entry.label}));
    return forget(entry);
  }
  const std::string of = select(entry.volume) + " snapshot ";
  std::vector<std::string> names = {entry.label};
  if (!entry.whole) {
    const Answers listed = TRY(ask({of + "show"}, config_.timeout_ms));
    Commands looks;
    names = eql::first_column(listed[0]);
    for (const std::string& name : names) {
      looks.push_back(fmt::format("{}select {} show", of, name));
    }
    const Answers shown = TRY(ask(looks, config_.timeout_ms));
    for (size_t i = names.size(); i-- > 0;) {
      const bool ours = names[i] == entry.label || shown[i].after("Description:") == entry.label;
      if (!ours) names.erase(names.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  for (const std::string& name : names) {
    const std::string offline = fmt::format("{}select {} offline", of, name);
    TRY(run_if_there({offline, fmt::format("{}delete {}", of, name)}));
  }
  return forget(entry);
}

// The group deletes a volume's snapshots with it.
Result<> Group::remove(const EqualLogicEntry& entry) const {
  const auto has_snapshots = [](const Entries& all, const std::string& label) {
    return std::ranges::find(all, label, &EqualLogicEntry::volume) != all.end();
  };
  if (!entry.snapshot && has_snapshots(TRY(entries()), entry.label)) {
    TRY(unmap(select(entry)));
    return change([&entry](Entries& all) -> Result<> {
      for (EqualLogicEntry& one : all) {
        if (one.label != entry.label) continue;
        one.name.clear();
        one.retired = true;
      }
      return {};
    });
  }
  TRY(drop(entry));
  const Entries left = TRY(entries());
  for (const EqualLogicEntry& one : left) {
    if (one.retired && !has_snapshots(left, one.label)) TRY(drop(one));
  }
  return {};
}

class PreparedEqualLogic final : public PreparedSnapshot {
 public:
  PreparedEqualLogic(const Group& group, Entries entries)
      : group_(group), entries_(std::move(entries)) {}

  // Its errors have nobody to go to; list() shows what is left.
  ~PreparedEqualLogic() override {
    if (finished_) return;
    for (const EqualLogicEntry& one : entries_) {
      static_cast<void>((taking_ ? group_.drop(one) : group_.forget(one)).ok());
    }
  }

  Result<> take() override {
    taking_ = true;
    Commands commands;
    for (const EqualLogicEntry& one : entries_) {
      commands.push_back(Group::select(one.volume) + " snapshot create-now description " +
                         one.label);
    }
    for (const eql::Answer& answer : TRY(group_.run(commands, group_.config().take_timeout_ms))) {
      std::string name = answer.after("Snapshot name is ");
      if (name.ends_with('.')) name.pop_back();
      if (name.empty() || name.find(' ') != std::string::npos) {
        return group_.error("it does not tell the name of a snapshot that it made");
      }
      names_.push_back(std::move(name));
    }
    return {};
  }

  // A group that lacks room deletes snapshots: they are looked for once they have their names.
  Result<std::vector<ArraySnapshot>> finish() override {
    Commands commands;
    for (size_t i = 0; i < entries_.size(); ++i) {
      const std::string of = Group::select(entries_[i].volume) + " snapshot ";
      commands.push_back(of + "rename " + names_[i] + " " + entries_[i].label);
    }
    for (const EqualLogicEntry& one : entries_) commands.push_back(Group::select(one) + " show");
    TRY(group_.run(commands));
    TRY(group_.mark_whole(entries_));
    finished_ = true;
    std::vector<ArraySnapshot> made;
    for (const EqualLogicEntry& one : entries_) {
      made.push_back({one.id(), one.name, one.of_id, one.size_bytes, true});
    }
    return made;
  }

 private:
  const Group& group_;
  const Entries entries_;
  std::vector<std::string> names_;  // that the group gave them
  bool taking_ = false;
  bool finished_ = false;
};

class EqualLogicArray final : public ArrayProvider {
 public:
  EqualLogicArray(const EqualLogicConfig& config, HostLuns host)
      : group_(config, std::move(host)) {}

  const std::string& name() const override { return group_.config().name; }
  Abilities abilities() const override {
    return {.instant = true, .provisions = true, .writable_snapshots = true};
  }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override;
  Result<std::unique_ptr<PreparedSnapshot>> prepare(
      std::span<const SnapshotRequest> requests) override;
  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override;
  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override;
  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override;
  Result<MappedVolume> map(const std::string& id) override;
  Result<> unmap(const std::string& id) override;
  Result<> remove(const std::string& id) override;
  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override;
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override;
  Result<ArrayCapacity> capacity() override;
  Result<> health() override;

 private:
  std::string pool_show() const { return "pool select " + group_.config().pool + " show"; }
  // Of a reserved entry, by this command; what fails leaves nothing.
  Result<ArrayVolume> make(EqualLogicEntry entry, const std::string& before,
                           const std::string& after);

  const Group group_;
};

Result<std::optional<ArrayVolume>> EqualLogicArray::find(const DiskMedium& medium) {
  const auto found = group_.config().luns.find(medium.wwn);
  if (found == group_.config().luns.end()) return std::optional<ArrayVolume>();
  const uint64_t size = TRY(group_.size_of(found->second));
  return std::optional<ArrayVolume>({found->second, found->second, size, true});
}

Result<std::unique_ptr<PreparedSnapshot>> EqualLogicArray::prepare(
    std::span<const SnapshotRequest> requests) {
  TRY(check_requests(name(), requests));
  Entries entries;
  for (const SnapshotRequest& request : requests) {
    const std::string volume = TRY(group_.volume(request.volume.id));
    entries.push_back({.name = request.name,
                       .label = {},
                       .snapshot = true,
                       .volume = volume,
                       .of_id = request.volume.id,
                       .size_bytes = TRY(group_.size_of(volume))});
  }
  TRY(group_.reserve(entries));
  return std::make_unique<PreparedEqualLogic>(group_, std::move(entries));
}

Result<ArrayVolume> EqualLogicArray::make(EqualLogicEntry entry, const std::string& before,
                                          const std::string& after) {
  Entries entries = {std::move(entry)};
  TRY(group_.reserve(entries));
  const EqualLogicEntry& made = entries.front();
  const std::string select = Group::select(made);
  Result<Answers> ran =
      group_.run({before + made.label + after, select + " multihost-access enable",
                  select + " access create initiator " + group_.config().initiator});
  Result<> done = ran ? group_.mark_whole(entries) : Result<>(ran.error());
  if (done) return ArrayVolume{made.id(), made.name, made.size_bytes, true};
  static_cast<void>(group_.drop(made).ok());
  return std::move(done).error();
}

Result<ArrayVolume> EqualLogicArray::clone(const std::string& snapshot_id,
                                           const std::string& name) {
  TRY(check_array_name(this->name(), name));
  const EqualLogicEntry from = TRY(group_.whole_snapshot(snapshot_id));
  EqualLogicEntry entry;
  entry.name = name;
  entry.size_bytes = from.size_bytes;
  return make(std::move(entry), Group::select(from) + " clone ", "");
}

Result<ArrayVolume> EqualLogicArray::create(const std::string& name, uint64_t size_bytes) {
  TRY(check_array_name(this->name(), name));
  if (size_bytes == 0 || size_bytes % kMegabyte != 0) {
    return group_.error(
        fmt::format("a volume of {} bytes cannot be made; give a multiple of 1 MiB", size_bytes));
  }
  EqualLogicEntry entry;
  entry.name = name;
  entry.size_bytes = size_bytes;
  return make(
      std::move(entry), "volume create ",
      fmt::format(" {}MB pool {} thin-provision", size_bytes / kMegabyte, group_.config().pool));
}

// The group keeps what the volume held in one more snapshot, which is not plumb's.
Result<> EqualLogicArray::restore(const std::string& snapshot_id, const std::string& volume_id) {
  const EqualLogicEntry from = TRY(group_.whole_snapshot(snapshot_id));
  const std::string to = TRY(group_.volume(volume_id));
  if (from.of_id != volume_id || from.volume != to) {
    return group_.error(fmt::format("{} is no snapshot of {}", snapshot_id, volume_id));
  }
  TRY(group_.unmap(Group::select(from)));
  const Answers answers =
      TRY(group_.ask({Group::select(to) + " offline", Group::select(from) + " offline",
                      Group::select(from) + " restore", Group::select(to) + " online"},
                     group_.config().timeout_ms));
  for (const size_t i : {0U, 2U, 3U}) {
    if (!answers[i].error.empty()) {
      return group_.error(fmt::format("restore of {}: {}", to, answers[i].error));
    }
  }
  for (const auto& [wwn, volume] : group_.config().luns) {
    if (volume == to) group_.host().forget_content(TRY(LunId::parse(wwn)));
  }
  return {};
}

Result<MappedVolume> EqualLogicArray::map(const std::string& id) {
  const std::optional<EqualLogicEntry> ours = TRY(group_.entry(id));
  if (ours && ours->whole) return group_.map(Group::select(*ours));
  return group_.map(Group::select(TRY(group_.volume(id))));
}

// A volume of the administrator's was mapped before, and stays so.
Result<> EqualLogicArray::unmap(const std::string& id) {
  const std::optional<EqualLogicEntry> ours = TRY(group_.entry(id));
  if (!ours) return {};
  return group_.unmap(Group::select(*ours));
}

Result<> EqualLogicArray::remove(const std::string& id) {
  const std::optional<EqualLogicEntry> ours = TRY(group_.entry(id));
  if (ours) return group_.remove(*ours);
  if (id.find('@') != std::string::npos) return {};
  return group_.error(fmt::format("volume {} was not made here, and is not removed", id));
}

Result<std::vector<ArraySnapshot>> EqualLogicArray::list_snapshots(const std::string& prefix) {
  std::vector<ArraySnapshot> found;
  Commands looks;
  for (const EqualLogicEntry& one : TRY(group_.entries())) {
    if (!one.snapshot || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.of_id, one.size_bytes, one.whole});
    looks.push_back(Group::select(one) + " show");
  }
  if (looks.empty()) return found;
  const Answers answers = TRY(group_.ask(looks, group_.config().timeout_ms));
  for (size_t i = 0; i < found.size(); ++i) {
    found[i].whole = found[i].whole && answers[i].error.empty();
  }
  return found;
}

Result<std::vector<ArrayVolume>> EqualLogicArray::list_volumes(const std::string& prefix) {
  std::vector<ArrayVolume> found;
  for (const EqualLogicEntry& one : TRY(group_.entries())) {
    if (one.snapshot || one.retired || !one.name.starts_with(prefix)) continue;
    found.push_back({one.id(), one.name, one.size_bytes, one.whole});
  }
  return found;
}

Result<ArrayCapacity> EqualLogicArray::capacity() {
  const Answers answers = TRY(group_.run({pool_show()}));
  Result<uint64_t> total = eql::size_bytes(answers[0].after("TotalCapacity:"));
  Result<uint64_t> free = eql::size_bytes(answers[0].after("FreeSpace:"));
  if (total && free) return ArrayCapacity{*total, std::min(*free, *total)};
  return group_.error("pool " + group_.config().pool + ": its sizes are not told");
}

Result<> EqualLogicArray::health() {
  const ArrayCapacity found = TRY(capacity());
  if (found.free_bytes != 0) return {};
  return group_.error(
      fmt::format("the pool {} is full; grow it, or remove snapshots", group_.config().pool));
}

}  // namespace

std::unique_ptr<ArrayProvider> make_equallogic_array(const EqualLogicConfig& config,
                                                     HostLuns host) {
  return std::make_unique<EqualLogicArray>(config, std::move(host));
}

}  // namespace plumb
