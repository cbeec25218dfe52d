// The process of a LunKeeper: a child made before the VM's process enters its sandbox. It outlives
// nothing: when the other end of its sockets is closed, it ends.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace plumb {

struct KeeperSockets {
  UniqueFd luns;         // keeper_protocol.h
  UniqueFd connections;  // one byte asks for a connection to the reservation broker; the answer is
                         // a sentence, which is "" beside the connected socket
};

// Forks. Only while the process has one thread.
Result<KeeperSockets> start_keeper();

// A connected socket to the reservation broker, from the keeper. One thread at a time; blocks.
Result<UniqueFd> connect_through_keeper(int connections);

// Whether a message of the kernel's uevent socket is about a disk or one of its paths. Pure.
bool is_disk_event(std::span<const std::byte> message);

}  // namespace plumb
