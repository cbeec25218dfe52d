// All that one client sends, to a whole server: it answers or cuts off, and comes to rest.
//
// The bytes are what a client sends behind the words that take it to transmission, or, when the
// first of them is odd, from the beginning. The disk is checked as any other user's.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "blockdev/mem_device.h"
#include "blockdev/nbd/server.h"
#include "tests/temporary_folder.h"

namespace {

using namespace plumb;
using namespace plumb::nbd;

constexpr uint64_t kSize = 65536;

struct Fixture {
  Fixture() {
    log::configure("fuzz", log::Level::kNothing);
    BlockInfo info{.size_bytes = kSize};
    info.max_discard_bytes = info.max_write_zeroes_bytes = 8192;
    disk = std::make_unique<Disk>(Disk::Config{.id = "disk", .limit = {}},
                                  std::make_unique<MemDevice>(info, *thread), *thread);
    server = std::make_unique<Server>(
        Server::Config{.listener = listen_unix(path, 16).value(),
                       .exports = {{.name = "disk",
                                    .disk = disk.get(),
                                    .writable = true,
                                    .allocation = &changes,
                                    .bitmaps = {{.name = "x", .source = &changes}}}},
                       .thread = *thread});
  }
  TemporaryFolder folder;
  std::string path = folder.path() + "/socket";
  std::unique_ptr<IoThread> thread = IoThread::start({.name = "io-nbd"}).value();
  BitmapExtents changes{{0b1010}, 4096};
  std::unique_ptr<Disk> disk;
  std::unique_ptr<Server> server;
};

void add(Bytes& to, uint64_t value, size_t bytes) {
  for (size_t i = bytes; i-- > 0;) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

void add_option(Bytes& to, uint32_t number, const Bytes& data) {
  add(to, 0x49484156454f5054, 8);
  add(to, number, 4);
  add(to, data.size(), 4);
  to.insert(to.end(), data.begin(), data.end());
}

// As a client says it that wants structured replies and metadata.
Bytes introduction() {
  Bytes all;
  add(all, kFixedNewstyle | kNoZeroes, 4);
  add_option(all, kOptStructuredReply, {});
  Bytes query;
  add(query, 0, 4);
  add(query, 1, 4);
  const std::string context = "qemu:dirty-bitmap:x";
  add(query, context.size(), 4);
  for (const char letter : context) query.push_back(static_cast<std::byte>(letter));
  add_option(all, kOptSetMetaContext, query);
  add_option(all, kOptGo, Bytes(6));
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Fixture fixture;
  if (size == 0 || size > 100'000) return 0;
  const UniqueFd client = connect_unix(fixture.path).value();
  Bytes all = (data[0] & 1U) != 0 ? Bytes() : introduction();
  const auto rest = std::as_bytes(std::span(data, size)).subspan(1);
  all.insert(all.end(), rest.begin(), rest.end());
  // Both ways in turn, so that neither side waits for the other.
  size_t sent = 0;
  std::array<std::byte, 65536> answers{};
  bool closed = false;
  while (true) {
    if (sent < all.size()) {
      const ssize_t now =
          ::send(client.get(), all.data() + sent, all.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (now > 0) sent += static_cast<size_t>(now);
      if (now < 0 && errno != EAGAIN) break;
    }
    if (sent == all.size() && !closed) {
      ::shutdown(client.get(), SHUT_WR);
      closed = true;
    }
    const ssize_t got =
        ::recv(client.get(), answers.data(), answers.size(), closed ? 0 : MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) break;
  }
  return 0;
}
