#include "snapshot/arrays/device_mapper.h"

#include <libdevmapper.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "base/file.h"

namespace plumb {
namespace {

struct DestroyTask {
  void operator()(dm_task* task) const { ::dm_task_destroy(task); }
};
using Task = std::unique_ptr<dm_task, DestroyTask>;

// What libdevmapper would print is in the errors that are returned.
void quiet(int, const char*, int, int, const char*, ...) {}

Result<Task> make_task(int type, const std::string& name) {
  Task task(::dm_task_create(type));
  if (!task || ::dm_task_set_name(task.get(), name.c_str()) == 0) {
    return failed("device-mapper cannot be asked about '{}'", name);
  }
  return task;
}

Result<> run(const Task& task, const char* action, const std::string& name) {
  if (::dm_task_run(task.get()) != 0) return {};
  return os_error(::dm_task_get_errno(task.get()), "device-mapper cannot {} {}", action, name);
}

// Where no udev runs, its work on /dev/mapper is left to do.
void settle_node(const std::string& name) {
  const std::string path = fmt::format("{}/{}", ::dm_dir(), name);
  Result<Task> info = make_task(DM_DEVICE_INFO, name);
  dm_info facts{};
  if (!info || !run(*info, "tell of", name) || ::dm_task_get_info(info->get(), &facts) == 0) return;
  if ((facts.exists != 0) != (::access(path.c_str(), F_OK) == 0)) ::dm_mknodes(name.c_str());
}

// For what makes or takes away a device node: udev does that, and is waited for, where it runs.
Result<> run_with_udev(const Task& task, const char* action, const std::string& name) {
  uint32_t cookie = 0;
  if (::dm_task_set_cookie(task.get(), &cookie, 0) == 0) {
    return failed("device-mapper cannot {} {}: no semaphore for udev", action, name);
  }
  Result<> ran = run(task, action, name);
  ::dm_udev_wait(cookie);
  ::dm_task_update_nodes();
  settle_node(name);
  return ran;
}

Result<> add_target(const Task& task, const DmTarget& target, const std::string& name) {
  if (::dm_task_add_target(task.get(), 0, target.sectors, target.type.c_str(),
                           target.words.c_str()) != 0) {
    return {};
  }
  return failed("device-mapper cannot be given the table of {}", name);
}

// The table, or the status, of a device.
Result<DmTarget> first_target(int type, const std::string& name) {
  const Task task = TRY(make_task(type, name));
  TRY(run(task, "tell of", name));
  uint64_t start = 0;
  uint64_t sectors = 0;
  char* target_type = nullptr;
  char* words = nullptr;
  const void* next =
      ::dm_get_next_target(task.get(), nullptr, &start, &sectors, &target_type, &words);
  if (target_type == nullptr) return failed("{} has no table", name);
  DmTarget target{sectors, target_type, words};
  if (next != nullptr) target.type = "several";
  return target;
}

}  // namespace

KernelDeviceMapper::KernelDeviceMapper() { ::dm_log_with_errno_init(quiet); }

Result<std::optional<DmInfo>> KernelDeviceMapper::info(const std::string& name) {
  const Task task = TRY(make_task(DM_DEVICE_INFO, name));
  TRY(run(task, "tell of", name));
  dm_info info{};
  if (::dm_task_get_info(task.get(), &info) == 0) {
    return failed("device-mapper does not tell of {}", name);
  }
  if (info.exists == 0) return std::optional<DmInfo>();
  const char* uuid = ::dm_task_get_uuid(task.get());
  return std::optional<DmInfo>({::makedev(info.major, info.minor), uuid != nullptr ? uuid : "",
                                info.open_count, info.suspended != 0});
}

Result<DmTarget> KernelDeviceMapper::table(const std::string& name) {
  return first_target(DM_DEVICE_TABLE, name);
}

Result<std::string> KernelDeviceMapper::status(const std::string& name) {
  DmTarget target = TRY(first_target(DM_DEVICE_STATUS, name));
  return std::move(target.words);
}

Result<> KernelDeviceMapper::message(const std::string& name, const std::string& text) {
  const Task task = TRY(make_task(DM_DEVICE_TARGET_MSG, name));
  if (::dm_task_set_sector(task.get(), 0) == 0 ||
      ::dm_task_set_message(task.get(), text.c_str()) == 0) {
    return failed("device-mapper cannot be given the message '{}'", text);
  }
  return run(task, fmt::format("do '{}' in", text).c_str(), name);
}

Result<> KernelDeviceMapper::suspend(const std::string& name) {
  const Task task = TRY(make_task(DM_DEVICE_SUSPEND, name));
  return run(task, "suspend", name);
}

Result<> KernelDeviceMapper::resume(const std::string& name) {
  const Task task = TRY(make_task(DM_DEVICE_RESUME, name));
  return run_with_udev(task, "resume", name);
}

Result<> KernelDeviceMapper::create(const std::string& name, const std::string& uuid,
                                    const DmTarget& target, bool read_only) {
  const Task task = TRY(make_task(DM_DEVICE_CREATE, name));
  TRY(add_target(task, target, name));
  if (::dm_task_set_uuid(task.get(), uuid.c_str()) == 0 ||
      (read_only && ::dm_task_set_ro(task.get()) == 0)) {
    return failed("device-mapper cannot be asked to make {}", name);
  }
  return run_with_udev(task, "make", name);
}

Result<> KernelDeviceMapper::reload(const std::string& name, const DmTarget& target) {
  const Task task = TRY(make_task(DM_DEVICE_RELOAD, name));
  TRY(add_target(task, target, name));
  TRY(run(task, "load the table of", name));
  // The kernel suspends it by itself to put the new table in place.
  return resume(name);
}

Result<> KernelDeviceMapper::remove(const std::string& name) {
  const Task task = TRY(make_task(DM_DEVICE_REMOVE, name));
  // udev may have it open for a moment.
  if (::dm_task_retry_remove(task.get()) == 0) return failed("{} cannot be removed", name);
  return run_with_udev(task, "remove", name);
}

// The library keeps its descriptor of /dev/mapper/control.
void KernelDeviceMapper::after_fork() { ::dm_lib_release(); }

std::string KernelDeviceMapper::path_of(const std::string& name) const {
  return fmt::format("{}/{}", ::dm_dir(), name);
}

std::optional<std::string> KernelDeviceMapper::name_of(const std::string& path) const {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) return std::nullopt;
  const std::string name = read_attribute(fmt::format(
      "/sys/dev/block/{}:{}/dm/name", ::major(status.st_rdev), ::minor(status.st_rdev)));
  if (name.empty()) return std::nullopt;
  return name;
}

}  // namespace plumb
