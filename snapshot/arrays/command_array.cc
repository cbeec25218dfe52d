#include "snapshot/arrays/command_array.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/program.h"
#include "snapshot/arrays/array_names.h"

namespace plumb {
namespace {

using nlohmann::json;

// Exit statuses with a meaning; docs/arrays.md.
constexpr int kUnknownAction = 2;
constexpr int kInUse = 3;
constexpr size_t kOutputBytes = 16U << 20U;

using Requests = std::span<const ArrayProvider::SnapshotRequest>;

json to_json(Requests requests) {
  json all = json::array();
  for (const auto& request : requests) {
    all.push_back({{"volume_id", request.volume.id}, {"name", request.name}});
  }
  return {{"snapshots", all}};
}

class Program {
 public:
  explicit Program(CommandConfig config) : config_(std::move(config)) {}

  const CommandConfig& config() const { return config_; }

  // The error of an action: "array A: PROGRAM ACTION: REASON".
  Error error(ErrorKind kind, const char* action, const std::string& reason) const {
    return make_error(kind, "array {}: {} {}: {}", config_.name, config_.program, action, reason);
  }

  // What `read` finds in the program's answer to an action.
  template <typename T>
  Result<T> ask(const char* action, json input, Result<T> (*read)(std::string_view)) const {
    const std::string output = TRY(run(action, std::move(input)));
    Result<T> answer = read(output);
    if (!answer) return error(ErrorKind::kFailed, action, answer.error().message);
    return answer;
  }

  Result<> tell(const char* action, json input) const {
    return ask<void>(action, std::move(input), command_answer::nothing);
  }

 private:
  Result<std::string> run(const char* action, json input) const {
    input["array"] = config_.name;
    input["settings"] = config_.settings;
    const bool frozen = std::string_view(action) == "take";
    Result<ProgramAnswer> ran =
        run_program({.program = config_.program,
                     .arguments = {action},
                     // An image's path may be anything; the program gets what can be said in UTF-8.
                     .input = input.dump(-1, ' ', false, json::error_handler_t::replace),
                     .timeout_ms = frozen ? config_.take_timeout_ms : config_.timeout_ms,
                     .output_limit_bytes = kOutputBytes});
    if (!ran) return error(ErrorKind::kFailed, action, ran.error().message);
    if (ran->exit_status == 0) return std::move(ran->output);
    std::string reason = last_words(ran->errors);
    if (reason.empty()) reason = fmt::format("exit status {} and no reason", ran->exit_status);
    switch (ran->exit_status) {
      case kUnknownAction:
        return error(ErrorKind::kFailed, action, "it cannot do that: " + reason);
      case kInUse:
        return error(ErrorKind::kLocked, action, reason);
      default:
        return error(ErrorKind::kFailed, action, reason);
    }
  }

  const CommandConfig config_;
};

class PreparedByCommand final : public PreparedSnapshot {
 public:
  PreparedByCommand(const Program& program, Requests requests)
      : program_(program), requests_(requests.begin(), requests.end()) {}
  ~PreparedByCommand() override {
    // Its error has nobody to go to; list() shows what is left.
    if (!finished_) static_cast<void>(program_.tell("drop", to_json(requests_)).ok());
  }

  Result<> take() override { return program_.tell("take", to_json(requests_)); }

  Result<std::vector<ArraySnapshot>> finish() override {
    auto made = TRY(program_.ask("finish", to_json(requests_), command_answer::snapshots));
    const bool as_asked =
        std::ranges::equal(made, requests_, [](const auto& one, const auto& asked) {
          return one.name == asked.name && one.volume_id == asked.volume.id && one.whole;
        });
    if (!as_asked) {
      return program_.error(ErrorKind::kFailed, "finish",
                            "its snapshots are not those that were asked for, in their order");
    }
    finished_ = true;
    return made;
  }

 private:
  const Program& program_;
  const std::vector<ArrayProvider::SnapshotRequest> requests_;
  bool finished_ = false;
};

class CommandArray final : public ArrayProvider {
 public:
  explicit CommandArray(const CommandConfig& config) : program_(config) {}

  const std::string& name() const override { return program_.config().name; }
  Abilities abilities() const override { return program_.config().abilities; }

  Result<std::optional<ArrayVolume>> find(const DiskMedium& medium) override {
    const json disk = {{"image", medium.image},
                       {"wwn", medium.wwn},
                       {"device", medium.device},
                       {"size_bytes", medium.size_bytes}};
    return program_.ask("find", {{"disk", disk}}, command_answer::found);
  }

  Result<std::unique_ptr<PreparedSnapshot>> prepare(Requests requests) override {
    TRY(check_requests(name(), requests));
    TRY(program_.tell("prepare", to_json(requests)));
    return std::make_unique<PreparedByCommand>(program_, requests);
  }

  Result<ArrayVolume> clone(const std::string& snapshot_id, const std::string& name) override {
    TRY(check_array_name(this->name(), name));
    return program_.ask("clone", {{"snapshot_id", snapshot_id}, {"name", name}},
                        command_answer::volume);
  }

  Result<ArrayVolume> create(const std::string& name, uint64_t size_bytes) override {
    TRY(check_array_name(this->name(), name));
    if (!abilities().provisions) {
      return failed("array {} makes no volumes; add 'provisions' to its abilities if it can",
                    this->name());
    }
    return program_.ask("create", {{"name", name}, {"size_bytes", size_bytes}},
                        command_answer::volume);
  }

  Result<> restore(const std::string& snapshot_id, const std::string& volume_id) override {
    return program_.tell("restore", {{"snapshot_id", snapshot_id}, {"volume_id", volume_id}});
  }

  Result<MappedVolume> map(const std::string& id) override {
    return program_.ask("map", {{"id", id}}, command_answer::mapped);
  }
  Result<> unmap(const std::string& id) override { return program_.tell("unmap", {{"id", id}}); }
  Result<> remove(const std::string& id) override { return program_.tell("remove", {{"id", id}}); }

  Result<std::vector<ArraySnapshot>> list_snapshots(const std::string& prefix) override {
    return list("list-snapshots", prefix, command_answer::snapshots);
  }
  Result<std::vector<ArrayVolume>> list_volumes(const std::string& prefix) override {
    return list("list-volumes", prefix, command_answer::volumes);
  }

  Result<ArrayCapacity> capacity() override {
    return program_.ask("capacity", json::object(), command_answer::capacity);
  }
  Result<> health() override { return program_.tell("health", json::object()); }

 private:
  // A program may list more than was asked for; what it lists besides is not ours to touch.
  template <typename T>
  Result<std::vector<T>> list(const char* action, const std::string& prefix,
                              Result<std::vector<T>> (*read)(std::string_view)) const {
    std::vector<T> all = TRY(program_.ask(action, {{"prefix", prefix}}, read));
    std::erase_if(all, [&prefix](const T& one) { return !one.name.starts_with(prefix); });
    return all;
  }

  const Program program_;
};

}  // namespace

std::unique_ptr<ArrayProvider> make_command_array(const CommandConfig& config) {
  return std::make_unique<CommandArray>(config);
}

}  // namespace plumb
