// VcpuGroup: the vCPU threads of one VM, and the gate through which they enter the guest.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "vmm/stop_reason.h"
#include "vmm/vcpu.h"

namespace plumb {

class VcpuGroup {
 public:
  explicit VcpuGroup(std::vector<std::unique_ptr<Vcpu>> vcpus) : vcpus_(std::move(vcpus)) {}
  // Ends the run (kKilled when nothing ended it before) and joins the threads.
  ~VcpuGroup();

  Vcpu& first() { return *vcpus_.front(); }

  // Starts one thread for each vCPU, on the host CPUs of `cpus` when it has some for it.
  // `on_stop` is called once, by the last thread that leaves the guest. Once, control thread.
  // Errors: no thread, or a host CPU that does not exist.
  Result<> start(const std::vector<std::vector<int>>& cpus, std::function<void(Stopped)> on_stop);

  // Returns when no vCPU is in the guest, or serves an exit, also when the run is ending. Not on a
  // vCPU's thread.
  void pause();
  void resume();
  // Ends the run for the first reason given; later ones are ignored. Any thread.
  void stop(Stopped stopped);

 private:
  enum class Wish : uint8_t { kRun, kPause, kStop };
  Result<> start_thread(Vcpu& vcpu, const std::vector<int>& cpus);
  void thread_main(Vcpu& vcpu);
  bool enter(Vcpu& vcpu);
  void leave();
  void kick_all();

  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::function<void(Stopped)> on_stop_;

  std::mutex mutex_;
  std::condition_variable changed_;
  Wish wish_ = Wish::kRun;  // guarded by mutex_, as is all below
  unsigned inside_ = 0;     // threads in the guest or serving an exit
  unsigned alive_ = 0;      // threads that have not ended
  bool started_ = false;
  std::optional<Stopped> stopped_;
  std::vector<std::thread> threads_;
};

}  // namespace plumb
