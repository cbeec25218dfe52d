// The socket by which a running VM is given disks: a request is a DiskDefinition and its source
// (source_message.h), whose descriptors come along.
//
// {"disk", "source"}, one a connection, answered with what GuestDisks::attach() returns. The VM's
// process can open nothing itself: whoever may, opens, claims and locks, and claim and locks live
// on in the VM.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/json_socket.h"
#include "base/result.h"
#include "cli/definition.h"
#include "cli/disk_source.h"

namespace plumb {

// Takes the disk; on the thread that runs the io_context.
using DiskTaker = std::function<Result<nlohmann::json>(const DiskDefinition&, DiskSource)>;

Result<std::unique_ptr<JsonServer>> listen_for_disks(boost::asio::io_context& context,
                                                     const std::string& path, DiskTaker taker);

// Hands a disk to the VM whose socket is at `path`, and returns its answer, or the error that it
// had. Blocks.
Result<nlohmann::json> hand_over_disk(const std::string& path, const DiskDefinition& disk,
                                      const DiskSource& source);

}  // namespace plumb
