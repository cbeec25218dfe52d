#include "cli/libvirt_watchdog.h"

#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/json_socket.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/libvirt_guests.h"
#include "cli/libvirt_media.h"
#include "cli/runtime_folder.h"
#include "rdm/lun_resolver.h"
#include "snapshot/domain_xml.h"
#include "snapshot/freeze_journal.h"
#include "snapshot/freeze_lease.h"
#include "snapshot/libvirt_connection.h"
#include "snapshot/libvirt_freezer.h"
#include "snapshot/suspend_holder.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

// Who has us started connects at once, or has died.
constexpr std::chrono::seconds kUnused{15};
constexpr int kPatienceMs = 30'000;  // for the command before us

class LibvirtWatchdog {
 public:
  LibvirtWatchdog(std::string uri, std::string domain)
      : uri_(std::move(uri)), domain_(std::move(domain)) {}

  Result<> start();
  void run() { context_.run(); }

 private:
  Result<> lock();
  Result<Json> describe();
  Result<> open_lease(bool several_disks);
  void await_signal();
  void end_if_done();

  const std::string uri_;
  const std::string domain_;
  const LibvirtGuestPaths paths_{uri_, domain_};
  boost::asio::io_context context_;
  boost::asio::signal_set signals_{context_};
  boost::asio::steady_timer unused_{context_};
  UniqueFd lock_;
  Json description_;
  std::unique_ptr<LibvirtConnection> libvirt_;
  std::optional<FreezeJournal> frozen_;
  std::optional<FreezeJournal> suspended_;
  std::optional<SuspendHolder> holder_;
  std::optional<LibvirtFreezer> freezer_;
  std::optional<FreezeLease> lease_;
  JsonServer::Id last_client_ = 0;
  std::unique_ptr<JsonServer> server_;
};

Result<> LibvirtWatchdog::lock() {
  Result<UniqueFd> lock = lock_runtime_folder(paths_.name);
  // The command before us has ended, and its watchdog will in a moment.
  if (!lock && lock.error().kind == ErrorKind::kLocked &&
      wait_for_end(running_pid(paths_.name), kPatienceMs)) {
    lock = lock_runtime_folder(paths_.name);
  }
  if (!lock && lock.error().kind == ErrorKind::kLocked) {
    return make_error(
        ErrorKind::kLocked,
        "domain '{}' is being copied, or thawed, by another command, whose watchdog is "
        "pid {} (log: {}); try later",
        domain_, running_pid(paths_.name), paths_.files.log);
  }
  lock_ = TRY(std::move(lock));
  return {};
}

// For who has to find the guest again when we died.
Result<> write_down(const LibvirtGuestPaths& paths, const std::string& uri,
                    const std::string& domain) {
  return replace_file(paths.domain, Json{{"uri", uri}, {"domain", domain}}.dump() + "\n");
}

Result<> LibvirtWatchdog::start() {
  TRY(check_libvirt_uri(uri_));
  TRY(lock());
  TRY(write_down(paths_, uri_, domain_));
  frozen_ = TRY(FreezeJournal::open(paths_.files.freeze));
  suspended_ = TRY(FreezeJournal::open(paths_.suspended));
  const bool left = !TRY(frozen_->read()).empty() || !TRY(suspended_->read()).empty();
  libvirt_ = TRY(LibvirtConnection::open(uri_, domain_));
  // What was left is let go, whatever the domain has become; nobody gets a lease then.
  if (!left) description_ = TRY(describe());
  TRY(open_lease(left || description_["media"].size() > 1));
  await_signal();
  unused_.expires_after(left ? std::chrono::seconds(0) : kUnused);
  unused_.async_wait([this](const boost::system::error_code&) { end_if_done(); });
  return {};
}

// What LibvirtGuestPaths and a lease's owner take from "begin".
Result<Json> LibvirtWatchdog::describe() {
  TRY(libvirt_->check_runs());
  const bool paused = TRY(libvirt_->state()) == LibvirtDomain::State::kPaused;
  const std::string xml = TRY(libvirt_->xml());
  const DomainDisks found = TRY(disks_of_domain(xml));
  Json media = TRY(media_of(found.disks, LunResolver()));
  return Json{{"definition", {{"libvirt", {{"uri", uri_}, {"xml", xml}}}}},
              {"media", std::move(media)},
              {"left_out", found.left_out},
              {"pid", ::getpid()},
              {"paused", paused}};
}

Result<> LibvirtWatchdog::open_lease(bool several_disks) {
  const auto tell = [](const std::string& sentence) { log::info("{}", sentence); };
  holder_.emplace(SuspendHolder::Config{.context = &context_,
                                        .domain = libvirt_.get(),
                                        .journal = &*suspended_,
                                        .needed = several_disks,
                                        .event = tell,
                                        .resumed = [this] { end_if_done(); }});
  freezer_.emplace(LibvirtFreezer::Config{
      .domain = libvirt_.get(),
      .await_resumed = [this](auto limit) { holder_->await_resumed(limit); },
      .given_back = [this] { boost::asio::post(context_, [this] { end_if_done(); }); }});
  lease_.emplace(FreezeLease::Config{.context = &context_,
                                     .freezer = &*freezer_,
                                     .disks = &*holder_,
                                     .journal = &*frozen_,
                                     .describe = [this] { return description_; },
                                     .event = tell});
  JsonServer::Config config{.path = paths_.files.lease};
  config.request = [this](JsonServer::Id id, const Json& request, std::vector<UniqueFd> fds,
                          JsonServer::Reply reply) {
    unused_.cancel();
    last_client_ = id;
    lease_->request(id, request, std::move(fds), std::move(reply));
  };
  config.closed = [this](JsonServer::Id id) {
    lease_->closed(id);
    end_if_done();
  };
  server_ = TRY(JsonServer::listen(context_, std::move(config)));
  return {};
}

// The work is done, or there never was any.
void LibvirtWatchdog::end_if_done() {
  if (lease_->status().is_null() && !holder_->busy()) context_.stop();
}

// The first signal ends the lease, as the death of its owner would; the second does not wait for
// the guest, which stays in the journals.
void LibvirtWatchdog::await_signal() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) signals_.add(number);
  signals_.async_wait([this](const boost::system::error_code& error, int number) {
    if (error) return;
    if (!server_) std::_Exit(kExitSignal + number);
    log::info("signal {}: the lease ends", number);
    server_.reset();
    lease_->closed(last_client_);
    end_if_done();
    await_signal();
  });
}

}  // namespace

Result<ExitCode> watch_libvirt_guest(const std::string& uri, const std::string& domain,
                                     const std::function<void()>& started) {
  LibvirtWatchdog watchdog(uri, domain);
  TRY(watchdog.start());
  started();
  watchdog.run();
  return kExitOk;
}

}  // namespace plumb
