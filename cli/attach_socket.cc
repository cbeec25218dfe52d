#include "cli/attach_socket.h"

#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/json_socket.h"
#include "base/unix_socket.h"
#include "cli/source_message.h"

namespace plumb {
namespace {

using Json = nlohmann::json;

constexpr unsigned kMaxConnections = 8;

Result<Json> take(const DiskTaker& taker, const Json& request, std::vector<UniqueFd> fds) {
  if (!request.contains("disk") || !request.contains("source")) {
    return failed("a message without disk or source");
  }
  const DiskDefinition disk = TRY(disk_from_json(request["disk"]));
  return taker(disk, TRY(source_from_json(request["source"], std::move(fds))));
}

}  // namespace

Result<std::unique_ptr<JsonServer>> listen_for_disks(boost::asio::io_context& context,
                                                     const std::string& path, DiskTaker taker) {
  JsonServer::Config config{
      .path = path, .max_connections = kMaxConnections, .max_fds = kSourceFds};
  config.request = [taker = std::move(taker)](JsonServer::Id, const Json& request,
                                              std::vector<UniqueFd> fds,
                                              const JsonServer::Reply& reply) {
    reply(take(taker, request, std::move(fds)));
  };
  return JsonServer::listen(context, std::move(config));
}

Result<Json> hand_over_disk(const std::string& path, const DiskDefinition& disk,
                            const DiskSource& source) {
  const UniqueFd socket = TRY(connect_unix(path, SOCK_SEQPACKET));
  const Json request{{"disk", disk_to_json(disk)}, {"source", source_to_json(source)}};
  Result<> sent = send_request(socket.get(), request, source_fds(source));
  Result<Json> answer = sent ? receive_answer(socket.get()) : Result<Json>(std::move(sent).error());
  if (!answer && (answer.error().os_errno == EPIPE || answer.error().os_errno == ECONNRESET)) {
    return failed("the VM ended, or takes no more disks now");
  }
  return answer;
}

}  // namespace plumb
