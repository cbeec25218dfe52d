// A disk in memory, served by NBD, that fails and keeps requests back when it is told to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/unix_socket.h"
#include "blockdev/mem_device.h"
#include "blockdev/nbd/server.h"
#include "tests/temporary_folder.h"

namespace plumb {

class HoldingDevice final : public BlockDevice {
 public:
  HoldingDevice(const BlockInfo& info, IoThread& thread) : memory_(info, thread), thread_(thread) {
    std::vector<std::byte>& bytes = memory_.bytes();
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = at(i);
  }
  static std::byte at(uint64_t offset) { return static_cast<std::byte>(offset / 512 + offset); }

  const BlockInfo& info() const override { return memory_.info(); }
  void submit(BlockRequest& request) override {
    requests_.push_back(
        {request.op, request.offset, request.length, request.durable, request.may_unmap});
    if (held_) {
      kept_.push_back(&request);
    } else {
      memory_.submit(request);
    }
  }
  void hold() {
    thread_.run([this] { held_ = true; });
  }
  // Lets go in the order of the last first, each failed when `error` is set.
  void release(int error = 0) {
    thread_.run([this, error] {
      held_ = false;
      for (; !kept_.empty(); kept_.pop_back()) {
        BlockRequest& request = *kept_.back();
        if (error == 0) {
          memory_.submit(request);
          continue;
        }
        thread_.post([&request, error] {
          request.error = error;
          request.done(request);
        });
      }
    });
  }
  size_t kept() {
    size_t count = 0;
    thread_.run([&] { count = kept_.size(); });
    return count;
  }
  struct Seen {
    BlockOp op;
    uint64_t offset, length;
    bool durable, may_unmap;
    bool operator==(const Seen&) const = default;
  };
  // What came so far; forgets it.
  std::vector<Seen> seen() {
    std::vector<Seen> all;
    thread_.run([&] { all.swap(requests_); });
    return all;
  }
  std::vector<std::byte>& bytes() { return memory_.bytes(); }

 private:
  MemDevice memory_;
  IoThread& thread_;
  bool held_ = false;
  std::vector<BlockRequest*> kept_;
  std::vector<Seen> requests_;
};

inline constexpr uint64_t kServedBytes = (uint64_t{1} << 20U) + 512;

struct NbdServed {
  struct Config {
    BlockInfo info{.size_bytes = kServedBytes, .read_only = true};
    nbd::Export served{.name = "disk"};  // the disk is filled in
    nbd::TlsAcceptor* tls = nullptr;
    int64_t negotiation_ns = nbd::Server::kNegotiationNs;
    CacheMode cache = CacheMode::kWritethrough;
  };
  NbdServed() : NbdServed(Config()) {}
  explicit NbdServed(Config config) {
    auto made = std::make_unique<HoldingDevice>(config.info, *thread);
    device = made.get();
    disk = std::make_unique<Disk>(Disk::Config{.id = "disk", .cache = config.cache},
                                  std::move(made), *thread);
    config.served.disk = disk.get();
    server =
        std::make_unique<nbd::Server>(nbd::Server::Config{.listener = listen_unix(path, 16).value(),
                                                          .exports = {config.served},
                                                          .thread = *thread,
                                                          .tls = config.tls,
                                                          .negotiation_ns = config.negotiation_ns});
  }

  TemporaryFolder folder;
  std::string path = folder.path() + "/socket";
  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-nbd"}).value();
  std::unique_ptr<Disk> disk;
  HoldingDevice* device = nullptr;  // the disk's
  std::unique_ptr<nbd::Server> server;
};

}  // namespace plumb
