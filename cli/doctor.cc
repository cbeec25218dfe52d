// plumb doctor: what of this host plumb can use, and what to do about the rest.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "base/size.h"
#include "base/text.h"
#include "blockdev/io_thread.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime_folder.h"
#include "cli/sandbox.h"
#include "rdm/lun_resolver.h"
#include "vmm/kvm.h"

namespace plumb {
namespace {

enum class Verdict { kOk, kWarning, kFailure };

struct Finding {
  Verdict verdict;
  std::string topic;
  std::string text;  // what was found, and for all but kOk what to do
};

const char* word_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarning:
      return "warning";
    case Verdict::kFailure:
      return "failure";
  }
  return "?";
}

Finding check_kvm() {
  Result<Kvm> kvm = Kvm::open();
  if (!kvm) return {Verdict::kFailure, "kvm", kvm.error().message};
  for (const char* module : {"kvm_intel", "kvm_amd"}) {
    if (std::filesystem::exists(std::string("/sys/module/") + module)) {
      return {Verdict::kOk, "kvm", fmt::format("hardware virtualisation by {}", module)};
    }
  }
  return {Verdict::kWarning, "kvm",
          "/dev/kvm works, but neither kvm_intel nor kvm_amd is there: this is a software KVM, on "
          "which stock kernels may not boot; use a host with VMX or SVM"};
}

Finding check_engine(EngineKind kind, const char* name, Verdict without, const char* advice) {
  Result<std::unique_ptr<IoThread>> thread = IoThread::start({.name = "doctor", .engine = kind});
  if (thread) return {Verdict::kOk, name, "works"};
  return {without, name, fmt::format("{}; {}", thread.error().message, advice)};
}

Finding check_files_limit() {
  constexpr rlim_t kWanted = 1024;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= kWanted) {
    return {Verdict::kOk, "open files", fmt::format("limit {}", limit.rlim_cur)};
  }
  return {Verdict::kWarning, "open files",
          fmt::format("the limit is {}; raise it to {} with ulimit -n or LimitNOFILE=",
                      limit.rlim_cur, kWanted)};
}

Finding check_locked_memory() {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY || ::geteuid() == 0) {
    return {Verdict::kOk, "locked memory", "no limit that matters"};
  }
  return {Verdict::kOk, "locked memory", fmt::format("limit {}", format_size(limit.rlim_cur))};
}

Finding check_runtime_folder() {
  const std::string root = runtime_root();
  Result<> made = make_folders(root, 0755);
  if (!made) {
    return {Verdict::kFailure, "runtime folder",
            made.error().message + "; run as root, or set PLUMB_RUN_DIR to a folder of yours"};
  }
  if (::access(root.c_str(), W_OK) != 0) {
    return {Verdict::kFailure, "runtime folder",
            root + " is not writable; run as root, or set PLUMB_RUN_DIR to a folder of yours"};
  }
  return {Verdict::kOk, "runtime folder", root};
}

Finding check_tun() {
  const UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (fd) return {Verdict::kOk, "tap", "/dev/net/tun can be opened"};
  return {Verdict::kWarning, "tap",
          "/dev/net/tun cannot be opened, so guests get no network; load the tun module, or run as "
          "root"};
}

Finding check_landlock() {
  if (have_landlock()) return {Verdict::kOk, "Landlock", "keeps the processes of VMs from files"};
  return {Verdict::kWarning, "Landlock",
          "is not in this kernel or not in use, so a guest that took over its VM's process would "
          "find its files; boot with lsm=landlock,… (see /sys/kernel/security/lsm)"};
}

Finding check_luns() {
  const LunResolver resolver;
  const std::vector<Lun> luns = resolver.list();
  std::set<std::string> seen;
  for (const Lun& lun : luns) {
    if (seen.insert(lun.id.text()).second) continue;
    return {Verdict::kWarning, "LUNs",
            fmt::format("{} is the identity of several devices that no multipath map joins; such a "
                        "LUN is refused: start multipathd, or unmap the copy",
                        lun.id.text())};
  }
  if (luns.empty()) {
    return {Verdict::kWarning, "LUNs",
            "no block device here has a WWN; map LUNs to this host, or use image files"};
  }
  return {Verdict::kOk, "LUNs", fmt::format("{} visible; see `plumb lun list`", luns.size())};
}

}  // namespace

Result<ExitCode> examine_host(bool json) {
  const Finding findings[] = {
      check_kvm(),
      check_engine(EngineKind::kUring, "io_uring", Verdict::kWarning,
                   "disks use libaio instead, which is slower"),
      check_engine(EngineKind::kLibaio, "libaio", Verdict::kWarning,
                   "raise fs.aio-max-nr with sysctl when io_uring does not work either"),
      check_files_limit(),
      check_locked_memory(),
      check_runtime_folder(),
      check_tun(),
      check_landlock(),
      check_luns(),
  };
  ExitCode code = kExitOk;
  nlohmann::json all = nlohmann::json::array();
  for (const Finding& finding : findings) {
    if (finding.verdict == Verdict::kFailure) code = kExitFailed;
    if (!json) {
      fmt::print("{:<8} {:<15} {}\n", word_of(finding.verdict), finding.topic,
                 printable(finding.text));
    }
    all.push_back(
        {{"verdict", word_of(finding.verdict)}, {"topic", finding.topic}, {"text", finding.text}});
  }
  if (json) print_json(all);
  return code;
}

}  // namespace plumb
