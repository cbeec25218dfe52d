#include "blockdev/nbd/server.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <semaphore>

#include "base/log.h"
#include "blockdev/nbd/connection.h"

namespace plumb::nbd {

ExportFacts Export::facts() const {
  const BlockInfo& info = disk->info();
  ExportFacts facts;
  facts.name = name;
  facts.size_bytes = info.size_bytes;
  facts.flags = kHasFlags | kSendFlush | kMultiConnection;
  facts.max_block_bytes = Server::kMaxRequestBytes;
  if (!writable || info.read_only) {
    facts.flags |= kReadOnly;
    return facts;
  }
  // A read may begin anywhere, a write could not be made whole blocks of without reading first.
  facts.min_block_bytes = info.logical_block_size;
  facts.flags |= kSendFua;
  if (info.max_discard_bytes > 0) facts.flags |= kSendTrim;
  if (info.max_write_zeroes_bytes > 0) facts.flags |= kSendWriteZeroes;
  return facts;
}

std::vector<std::string> Export::contexts() const {
  std::vector<std::string> names = {"base:allocation"};
  for (const Bitmap& bitmap : bitmaps) names.push_back("qemu:dirty-bitmap:" + bitmap.name);
  return names;
}

ExtentSource* Export::source_of(uint32_t context) const {
  return context == 0 ? allocation : bitmaps[context - 1].source;
}

Server::Server(Config config) : config_(std::move(config)) {
  config_.thread.run([this] {
    config_.thread.watch(
        config_.listener.get(), [this] { accept_all(); }, WatchFor::kReadable);
  });
}

Server::~Server() {
  std::binary_semaphore ended(0);
  config_.thread.run([this, &ended] {
    config_.thread.unwatch(config_.listener.get());
    empty_ = [&ended] { ended.release(); };
    if (connections_.empty()) return empty_();
    std::vector<Connection*> all;
    for (const auto& one : connections_) all.push_back(one.get());
    for (Connection* one : all) one->close();
  });
  config_.thread.wait_for(ended);
  config_.thread.run([] {});  // what released us has returned
}

void Server::accept_all() {
  while (true) {
    UniqueFd fd(::accept4(config_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) log::warning("an NBD client is not accepted: {}", std::strerror(errno));
      return;
    }
    if (connections_.size() == kMaxConnections) make_room();
    if (connections_.size() == kMaxConnections) {
      log::warning("an NBD client is turned away: {} are connected already", kMaxConnections);
      continue;
    }
    connections_.push_back(std::make_unique<Connection>(*this, std::move(fd)));
  }
}

// Who only connects keeps nobody out: the one that has negotiated longest goes.
void Server::make_room() {
  const auto slow =
      std::ranges::find_if(connections_, [](const auto& one) { return one->negotiates(); });
  if (slow != connections_.end()) (*slow)->fail("others wait, and it has not chosen an export");
}

std::vector<Offer> Server::offers() const {
  std::vector<Offer> offers;
  for (const Export& one : config_.exports) offers.push_back({one.facts(), one.contexts()});
  return offers;
}

void Server::remove(Connection& connection) {
  const auto found =
      std::ranges::find(connections_, &connection, &std::unique_ptr<Connection>::get);
  ENSURE(found != connections_.end());
  // Its caller is the connection itself: it goes when that has returned.
  config_.thread.post([gone = std::shared_ptr<Connection>(std::move(*found))] {});
  connections_.erase(found);
  if (connections_.empty() && empty_) empty_();
}

}  // namespace plumb::nbd
