#include "cli/sandbox.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/pr.h>
#include <linux/sched.h>
#include <scsi/sg.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/log.h"

namespace plumb {
namespace {

// The runtimes of sanitizers look into procfs and make system calls of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// ---- Landlock: linux/landlock.h, Documentation/userspace-api/landlock.rst ----------------------

// All that version 1 knows: 13 rights.
constexpr uint64_t kAllRights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1U) - 1;
constexpr uint64_t kReadRights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;

Result<> allow(int ruleset, const std::string& path, uint64_t rights) {
  const UniqueFd fd = TRY(open_file("path", path, O_PATH));
  const landlock_path_beneath_attr rule{.allowed_access = rights, .parent_fd = fd.get()};
  if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
    return os_error(errno, "Landlock takes no rule for {}", path);
  }
  return {};
}

struct PathRule {
  std::string path;
  uint64_t rights;
};

Result<> restrict_file_system(const std::vector<PathRule>& rules) {
  if (!have_landlock()) {
    log::warning("this kernel has no Landlock: this process keeps its way to files");
    return {};
  }
  const landlock_ruleset_attr handled{.handled_access_fs = kAllRights};
  const UniqueFd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0)));
  if (!ruleset) return os_error(errno, "Landlock takes no rules");
  for (const PathRule& rule : rules) TRY(allow(ruleset.get(), rule.path, rule.rights));
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) {
    return os_error(errno, "Landlock cannot restrict this process");
  }
  return {};
}

// No program that this process might start gets more than it has.
Result<> refuse_new_privileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) return {};
  return os_error(errno, "this process cannot give up new privileges");
}

// ---- capabilities: capabilities(7), of one thread
// ------------------------------------------------

// Those that the thread may have, of the first 32.
Result<uint32_t> permitted_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, sets) != 0) {
    return os_error(errno, "the capabilities of this process cannot be read");
  }
  return sets[0].permitted;
}

// Keeps those of `mask` that the thread has.
Result<> set_capabilities(uint32_t mask) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const uint32_t kept = TRY(permitted_capabilities()) & mask;
  const __user_cap_data_struct now[_LINUX_CAPABILITY_U32S_3] = {
      {.effective = kept, .permitted = kept, .inheritable = 0}, {}};
  if (::syscall(SYS_capset, &header, now) != 0) {
    return os_error(errno, "capabilities cannot be dropped");
  }
  return {};
}

// ---- seccomp ------------------------------------------------------------------------------------

constexpr int kAllowed[] = {
    // data
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
    SCMP_SYS(pwrite64), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(io_submit),
    SCMP_SYS(io_getevents), SCMP_SYS(io_pgetevents), SCMP_SYS(io_destroy), SCMP_SYS(getrandom),
    // descriptors
    SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(fcntl), SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), SCMP_SYS(lseek), SCMP_SYS(ftruncate), SCMP_SYS(memfd_create),
    SCMP_SYS(eventfd2), SCMP_SYS(unlink),
    // waiting
    SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
    SCMP_SYS(restart_syscall),
    // clients of the sockets
    SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto),
    SCMP_SYS(sendmsg), SCMP_SYS(shutdown), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(socketpair),
    // memory
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
    // threads and signals
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(gettid), SCMP_SYS(getpid),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
    SCMP_SYS(exit), SCMP_SYS(exit_group),
    // threads made later, of attached LUNs: they drop what others have dropped
    SCMP_SYS(capget), SCMP_SYS(capset)};

constexpr unsigned long kIoctls[] = {BLKDISCARD,    BLKZEROOUT,  // helper threads of disks
                                     BLKGETSIZE64,               // a LUN that grew
                                     SG_IO,                      // a LUN in physical mode
                                     TUNSETOFFLOAD,              // a network driver that starts
                                     TCGETS,        TCSETS,
                                     TCSETSW,       TCSETSF,  // the terminal, put back at the end
                                     FIONBIO,       FIONREAD};

// plumb-pr-broker: openat and its kin are for sysfs, which is all that Landlock leaves.
constexpr int kBrokerAllowed[] = {
    SCMP_SYS(accept4), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(getsockopt), SCMP_SYS(poll),
    SCMP_SYS(ppoll), SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(read), SCMP_SYS(write),
    SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
    // memory, time
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall),
    // threads and signals
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield),
    SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(exit), SCMP_SYS(exit_group)};

constexpr unsigned long kBrokerIoctls[] = {
    IOC_PR_REGISTER, IOC_PR_RESERVE, IOC_PR_RELEASE, IOC_PR_PREEMPT_ABORT,
    IOC_PR_PREEMPT,  IOC_PR_CLEAR,   SG_IO};

// A server of disks: openat and its kin are for what Landlock leaves.
constexpr int kServerAllowed[] = {
    SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(getsockopt), SCMP_SYS(poll),
    SCMP_SYS(ppoll), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(io_submit),
    SCMP_SYS(io_getevents), SCMP_SYS(io_pgetevents), SCMP_SYS(io_destroy), SCMP_SYS(openat),
    SCMP_SYS(open), SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(preadv2), SCMP_SYS(write),
    SCMP_SYS(writev), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(flock), SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(statx), SCMP_SYS(lseek),
    SCMP_SYS(getdents64), SCMP_SYS(unlink),
    // memory, time
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall), SCMP_SYS(getrandom),
    // threads and signals
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield),
    SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(exit), SCMP_SYS(exit_group)};

// One that serves disks to be written; overlays of theirs are written by descriptor, too.
constexpr int kServerWrites[] = {SCMP_SYS(pwrite64),  SCMP_SYS(pwritev2),  SCMP_SYS(fsync),
                                 SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate)};
constexpr unsigned long kServerWriteIoctls[] = {BLKDISCARD, BLKZEROOUT};

// The keeper of LUNs: reads sysfs and procfs, opens and asks LUNs.
constexpr int kKeeperAllowed[] = {
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(recvmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg),
    SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(setsockopt), SCMP_SYS(openat), SCMP_SYS(open),
    SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev),
    SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(stat),
    SCMP_SYS(lstat), SCMP_SYS(statx), SCMP_SYS(lseek), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64), SCMP_SYS(getcwd),
    // memory, time
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall), SCMP_SYS(futex),
    // signals
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(exit), SCMP_SYS(exit_group)};

constexpr unsigned long kKeeperIoctls[] = {SG_IO, BLKGETSIZE64, BLKSSZGET, BLKPBSZGET};

constexpr uint64_t kAllBits = ~uint64_t{0};
constexpr uint64_t kIoctlBits = 0xffffffff;  // the kernel looks at no more of the number
constexpr uint64_t kIoctlTypeBits = 0xff00;  // ioctl(2): the driver's letter
constexpr uint64_t kKvmIoctlType = 0xae00;   // KVMIO

using Filter = std::unique_ptr<void, decltype(&seccomp_release)>;

// That an argument, of those bits, has a value; libseccomp's own macros are not C++.
scmp_arg_cmp bits_equal(unsigned argument, uint64_t bits, uint64_t value) {
  return {.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = bits, .datum_b = value};
}

int allow_if(scmp_filter_ctx filter, int call, scmp_arg_cmp condition) {
  return seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1, condition);
}

// Of system calls whose argument decides: what every program here needs. Each returns a negative
// errno, or 0.
int allow_memory(scmp_filter_ctx filter) {
  // No memory that is both written and run.
  int error = 0;
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) {
    if (error == 0) error = allow_if(filter, call, bits_equal(2, PROT_EXEC, 0));
  }
  return error;
}

int allow_ioctls(scmp_filter_ctx filter, std::span<const unsigned long> requests) {
  int error = 0;
  for (const unsigned long request : requests) {
    if (error == 0) error = allow_if(filter, SCMP_SYS(ioctl), bits_equal(1, kIoctlBits, request));
  }
  return error;
}

int allow_threads(scmp_filter_ctx filter) {
  // Threads, no processes; signals for this process only.
  int error = allow_if(filter, SCMP_SYS(clone), bits_equal(0, CLONE_THREAD, CLONE_THREAD));
  const auto self = static_cast<uint64_t>(::getpid());
  if (error == 0) error = allow_if(filter, SCMP_SYS(tgkill), bits_equal(0, kAllBits, self));
  return error == 0 ? allow_memory(filter) : error;
}

// The same for a VM.
int allow_by_argument(scmp_filter_ctx filter) {
  int error = allow_threads(filter);
  if (error == 0)
    error = allow_if(filter, SCMP_SYS(ioctl), bits_equal(1, kIoctlTypeBits, kKvmIoctlType));
  if (error == 0) error = allow_ioctls(filter, kIoctls);
  // The names of threads.
  if (error == 0) error = allow_if(filter, SCMP_SYS(prctl), bits_equal(0, kAllBits, PR_SET_NAME));
  return error;
}

Result<> load_filter(std::span<const int> allowed, int (*more)(scmp_filter_ctx filter)) {
  if (kSanitized) return {};
  const Filter filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)), seccomp_release);
  if (!filter) return failed("libseccomp cannot make a filter");
  // Later threads too are made by clone(), whose flags can be seen: clone3() takes a pointer.
  int error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
  for (const int call : allowed) {
    if (error == 0) error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
  }
  if (error == 0) error = more(filter.get());
  if (error == 0) error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);  // every thread
  if (error == 0) error = seccomp_load(filter.get());
  if (error != 0) return os_error(-error, "the system calls of this process cannot be restricted");
  return {};
}

}  // namespace

bool have_landlock() {
  return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

Result<> drop_capabilities() { return set_capabilities(0); }

Result<> keep_only_raw_io() { return set_capabilities(1U << CAP_SYS_RAWIO); }

bool may_raw_io() {
  const Result<uint32_t> permitted = permitted_capabilities();
  return permitted.ok() && (permitted.value() & 1U << CAP_SYS_RAWIO) != 0;
}

Result<> give_up_privileges(const std::string& runtime_folder, KeptCapabilities kept) {
  TRY(refuse_new_privileges());
  TRY(restrict_file_system(
      {{runtime_folder, LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE},
       {"/sys", kReadRights},
       {"/proc/meminfo", LANDLOCK_ACCESS_FS_READ_FILE},
       {kSanitized ? "/proc" : "/proc/sys/kernel", kReadRights}}));
  return set_capabilities((kept.memory_lock ? 1U << CAP_IPC_LOCK : 0) |
                          (kept.raw_io ? 1U << CAP_SYS_RAWIO : 0));
}

Result<> give_up_broker_privileges() {
  TRY(refuse_new_privileges());
  TRY(restrict_file_system({{"/sys", kReadRights}}));
  return set_capabilities(1U << CAP_SYS_ADMIN | 1U << CAP_SYS_RAWIO);
}

Result<> restrict_system_calls() {
  return load_filter(kAllowed, [](scmp_filter_ctx filter) { return allow_by_argument(filter); });
}

Result<> restrict_broker_system_calls() {
  return load_filter(kBrokerAllowed, [](scmp_filter_ctx filter) {
    const int error = allow_threads(filter);
    return error == 0 ? allow_ioctls(filter, kBrokerIoctls) : error;
  });
}

Result<> give_up_server_privileges(const std::string& socket_folder, const std::string& readable) {
  TRY(refuse_new_privileges());
  std::vector<PathRule> left;
  if (!socket_folder.empty()) left.push_back({socket_folder, LANDLOCK_ACCESS_FS_REMOVE_FILE});
  if (!readable.empty()) left.push_back({readable, kReadRights});
  if (kSanitized) left.push_back({"/proc", kReadRights});
  TRY(restrict_file_system(left));
  return set_capabilities(readable.empty() ? 0 : 1U << CAP_DAC_READ_SEARCH);
}

Result<> restrict_server_system_calls(bool writable) {
  if (!writable) return load_filter(kServerAllowed, allow_threads);
  return load_filter(kServerAllowed, [](scmp_filter_ctx filter) {
    int error = allow_threads(filter);
    for (const int call : kServerWrites) {
      if (error == 0) error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0);
    }
    return error == 0 ? allow_ioctls(filter, kServerWriteIoctls) : error;
  });
}

Result<> give_up_keeper_privileges() {
  TRY(refuse_new_privileges());
  TRY(restrict_file_system({{"/sys", kReadRights},
                            {"/proc", kReadRights},
                            {"/dev", kReadRights | LANDLOCK_ACCESS_FS_WRITE_FILE}}));
  return set_capabilities(0);
}

Result<> restrict_keeper_system_calls() {
  return load_filter(kKeeperAllowed, [](scmp_filter_ctx filter) {
    const int error = allow_memory(filter);
    return error == 0 ? allow_ioctls(filter, kKeeperIoctls) : error;
  });
}

}  // namespace plumb
