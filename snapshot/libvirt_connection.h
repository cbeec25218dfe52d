// LibvirtConnection: a LibvirtDomain that is one, by libvirt's own library.
//
// A daemon that hangs is noticed within half a minute (keep-alive messages), one that was restarted
// is connected to again. No daemon is started for us.
#pragma once

#include <libvirt/libvirt.h>

#include <memory>
#include <mutex>
#include <string>

#include "snapshot/libvirt_domain.h"

namespace plumb {

class LibvirtConnection final : public LibvirtDomain {
 public:
  // Errors: libvirt cannot be reached. Whether there is such a domain, check_runs() tells. Once in
  // a process, and before it has other threads.
  static Result<std::unique_ptr<LibvirtConnection>> open(const std::string& uri,
                                                         const std::string& name);

  // Error kNotFound: no such domain, with the nearest name; or one that is shut off.
  Result<> check_runs();
  // The live one, without secrets.
  Result<std::string> xml();

  Result<State> state() override;
  Result<> set_agent_timeout(std::optional<std::chrono::seconds> timeout) override;
  Result<GuestOs> os() override;
  Result<std::vector<GuestFileSystem>> file_systems() override;
  Result<unsigned> freeze(const std::vector<std::string>& mountpoints) override;
  Result<unsigned> thaw() override;
  Result<> suspend() override;
  Result<> resume() override;

 private:
  using Connect = std::shared_ptr<virConnect>;
  using Domain = std::shared_ptr<virDomain>;

  LibvirtConnection(std::string uri, std::string name)
      : uri_(std::move(uri)), name_(std::move(name)) {}
  // The connection there is, or a new one.
  Result<Connect> connection();
  Result<Domain> domain();
  Error no_such_domain(virConnectPtr connection, const std::string& says) const;

  const std::string uri_;
  const std::string name_;
  std::mutex mutex_;  // of connection_
  Connect connection_;
};

}  // namespace plumb
