// FakeGuest: a VM as the coordinator sees it: an agent and disks that are not there, and a real
// FreezeLease behind a real socket, on a thread of its own. FakeDisks is its DiskHolder.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unix_socket.h"
#include "snapshot/agent_freezer.h"
#include "snapshot/fake_agent.h"
#include "snapshot/freeze_lease.h"
#include "tests/temporary_folder.h"

namespace plumb {

class FakeDisks final : public DiskHolder {
 public:
  explicit FakeDisks(boost::asio::io_context& context) : context_(context) {}

  void hold(std::chrono::milliseconds, std::function<void(Result<>)> held) override {
    Result<> result = busy ? Result<>(failed("disk data is busy")) : Result<>();
    is_held = result.ok();
    boost::asio::post(context_, [held = std::move(held), result = std::move(result)]() mutable {
      held(std::move(result));
    });
  }
  void release() override { is_held = false; }
  void keep(std::vector<Overlay> overlays, std::function<void(Result<>)> done) override {
    kept += overlays.size();
    answer(std::move(done));
  }
  void let_go(const std::string&, std::function<void(Result<>)> done) override {
    ++let_go_of;
    answer(std::move(done));
  }

  std::atomic<bool> is_held = false;
  std::atomic<bool> busy = false;
  std::atomic<size_t> kept = 0;  // overlays
  std::atomic<size_t> let_go_of = 0;
  std::atomic<bool> keeps_badly = false;

 private:
  void answer(std::function<void(Result<>)> done) {
    const bool bad = keeps_badly;
    boost::asio::post(context_, [done = std::move(done), bad] {
      done(bad ? Result<>(failed("disk data cannot be flushed")) : Result<>());
    });
  }

  boost::asio::io_context& context_;
};

// A guest with an agent and disks, and its lease behind a socket, on a thread of its own.
class FakeGuest {
 public:
  explicit FakeGuest(nlohmann::json describes = {{"vm", "db1"}})
      : journal_path(folder.path() + "/freeze"),
        path_(folder.path() + "/lease.sock"),
        describes_(std::move(describes)) {}
  ~FakeGuest() {
    if (thread_.joinable()) stop();
  }
  FakeGuest(const FakeGuest&) = delete;
  FakeGuest& operator=(const FakeGuest&) = delete;

  void start() {
    std::promise<void> ready;
    thread_ = std::thread([this, &ready] { run(ready); });
    ready.get_future().wait();
  }
  void stop() {
    signal_eventfd(ends_.get());
    boost::asio::post(context_, [this] { context_.stop(); });
    thread_.join();
  }

  UniqueFd connect() const { return connect_unix(path_, SOCK_SEQPACKET).value(); }
  std::string journal() const { return read_file(journal_path).value(); }
  nlohmann::json status() {
    std::promise<nlohmann::json> told;
    boost::asio::post(context_, [&] { told.set_value(lease_->status()); });
    return told.get_future().get();
  }
  // Waits until the lease is over and the guest thawed.
  void wait_until_idle() {
    while (!status().is_null()) std::this_thread::yield();
  }
  std::vector<std::string> events() {
    std::promise<std::vector<std::string>> told;
    boost::asio::post(context_, [&] { told.set_value(events_); });
    return told.get_future().get();
  }

  TemporaryFolder folder;
  const std::string journal_path;
  FakeAgent agent;
  FakeDisks disks{context_};

 private:
  void run(std::promise<void>& ready) {
    AgentFreezer freezer({.connect = [this]() -> Result<UniqueFd> { return agent.connect(); },
                          .cancel_fd = ends_.get()});
    FreezeJournal journal = FreezeJournal::open(journal_path).value();
    lease_.emplace(
        FreezeLease::Config{.context = &context_,
                            .freezer = &freezer,
                            .disks = &disks,
                            .journal = &journal,
                            .describe = [this] { return describes_; },
                            .event = [this](const std::string& what) { events_.push_back(what); },
                            .retry = FreezeLease::Milliseconds(20)});
    JsonServer::Config config{.path = path_, .max_fds = FreezeLease::kMaxFds};
    config.request = [this](JsonServer::Id id, const nlohmann::json& request,
                            std::vector<UniqueFd> fds, JsonServer::Reply reply) {
      lease_->request(id, request, std::move(fds), std::move(reply));
    };
    config.closed = [this](JsonServer::Id id) { lease_->closed(id); };
    auto server = JsonServer::listen(context_, std::move(config)).value();
    const auto work = boost::asio::make_work_guard(context_);
    ready.set_value();
    context_.run();
    server.reset();
    lease_.reset();
  }

  boost::asio::io_context context_;
  UniqueFd ends_ = make_eventfd().value();
  std::string path_;
  nlohmann::json describes_;
  std::optional<FreezeLease> lease_;
  std::vector<std::string> events_;
  std::thread thread_;
};

}  // namespace plumb
