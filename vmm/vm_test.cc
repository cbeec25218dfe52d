// Guests of a few bytes on the host's KVM, hardware or software. They run in 32-bit mode, as PVH
// starts them, and stay with instructions that every KVM can emulate.
#include "vmm/vm.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <condition_variable>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "base/size.h"
#include "tests/fakes/kernel_images.h"
#include "tests/temporary_folder.h"
#include "vmm/boot/loader.h"
#include "vmm/kvm.h"
#include "vmm/virtio/rng.h"

using namespace plumb;
using Catch::Matchers::Contains;

namespace {

// --- What guests are made of ---

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes code(std::initializer_list<unsigned> bytes) {
  Bytes made;
  for (const unsigned byte : bytes) made.push_back(static_cast<std::byte>(byte));
  return made;
}

Bytes set_port(unsigned port) { return code({0x66, 0xba, port & 0xffU, port >> 8U}); }
Bytes out8(unsigned port, unsigned value) {
  return set_port(port) + code({0xb0, value, 0xee});  // mov al, value; out dx, al
}
Bytes out16(unsigned port, unsigned value) {
  return set_port(port) + code({0x66, 0xb8, value & 0xffU, value >> 8U, 0x66, 0xef});
}
Bytes print(std::string_view text) {
  Bytes made;
  for (const char c : text) made = made + out8(0x3f8, static_cast<unsigned char>(c));
  return made;
}
// in al, dx; then out to the serial port
Bytes print_port(unsigned port) {
  return set_port(port) + code({0xec}) + set_port(0x3f8) + code({0xee});
}
Bytes power_off() { return out16(0x604, 1U << 13U); }
Bytes forever() { return code({0xeb, 0xfe}); }

class Console : public CharBackend {
 public:
  size_t write(std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    for (const std::byte byte : data) text_ += static_cast<char>(byte);
    changed_.notify_all();
    return data.size();
  }
  void frontend_ready() override {}
  void attach(CharFrontend* /*frontend*/) override {}

  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  void wait_for(size_t characters) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return text_.size() >= characters; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
};

class Ending {
 public:
  std::function<void(Stopped)> callback() {
    return [this](Stopped stopped) {
      const std::lock_guard lock(mutex_);
      ++calls_;
      stopped_ = std::move(stopped);
      changed_.notify_all();
    };
  }
  Stopped wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return calls_ > 0; });
    return stopped_;
  }
  int calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int calls_ = 0;
  Stopped stopped_;
};

const Kvm& kvm() {
  static const Kvm kvm = Kvm::open().value();
  return kvm;
}

Result<> load(Vm& vm, const std::string& kernel, const std::string& initrd = "",
              const std::string& command_line = "hello") {
  const BootFiles files = TRY(open_boot_files(kernel, initrd));
  return vm.load_kernel(files, command_line);
}

struct Guest {
  explicit Guest(const Bytes& program, unsigned vcpus = 1, uint64_t memory = 16 * kMiB) {
    const std::string path = folder.path() + "/guest";
    const Bytes file = TestPvhElf{.code = program}.build();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(file.data()),
               static_cast<std::streamsize>(file.size()));
    auto made = Vm::create(kvm(), {.name = "test",
                                   .memory_bytes = memory,
                                   .vcpus = vcpus,
                                   .serial = &console,
                                   .ejected = [this](unsigned slot) { ejected.set_value(slot); }});
    INFO((made ? "" : made.error().message));
    REQUIRE(made);
    vm = std::move(made).value();
    REQUIRE(load(*vm, path));
  }
  Stopped run() {
    REQUIRE(vm->start(ending.callback()));
    return ending.wait();
  }

  TemporaryFolder folder;
  Console console;
  Ending ending;
  std::promise<unsigned> ejected;
  std::unique_ptr<Vm> vm;
};

// Skips the test, and says so, where there is no KVM.
bool have_kvm() {
  Result<Kvm> kvm = Kvm::open();
  if (kvm) return true;
  WARN("skipped: " << kvm.error().message);
  return false;
}

}  // namespace

TEST_CASE("a guest prints and powers off") {
  if (!have_kvm()) return;
  Guest guest(print("hello") + power_off() + forever());
  const Stopped stopped = guest.run();
  CHECK(stopped.reason == StopReason::kPowerOff);
  CHECK(guest.console.text() == "hello");
}

TEST_CASE("a reset is told from a power-off, by either register") {
  if (!have_kvm()) return;
  CHECK(Guest(out8(0xcf9, 6) + forever()).run().reason == StopReason::kReset);
  CHECK(Guest(out8(0x64, 0xfe) + forever()).run().reason == StopReason::kReset);
}

TEST_CASE("a triple fault is a crash, with the vCPU and its RIP") {
  if (!have_kvm()) return;
  // There is no IDT: int 0x20 faults, as does the fault's handler.
  Guest guest(code({0xcd, 0x20}) + forever());
  const Stopped stopped = guest.run();
  CHECK(stopped.reason == StopReason::kCrash);
  CHECK_THAT(stopped.message, Contains("vCPU 0") && Contains("RIP 0x10000"));
}

TEST_CASE("a guest that never ends is ended with its VM, and on_stop says killed, once") {
  if (!have_kvm()) return;
  Guest guest(print("x") + forever());
  REQUIRE(guest.vm->start(guest.ending.callback()));
  guest.console.wait_for(1);
  guest.vm.reset();
  CHECK(guest.ending.wait().reason == StopReason::kKilled);
  CHECK(guest.ending.calls() == 1);
}

TEST_CASE("a VM that was never started goes without a word") {
  if (!have_kvm()) return;
  Guest guest(forever());
  guest.vm.reset();
  CHECK(guest.ending.calls() == 0);
}

TEST_CASE("ports that nobody has read as all ones, and the real ones answer") {
  if (!have_kvm()) return;
  Guest guest(print_port(0x2f8) + print_port(0x3fd) + power_off() + forever());
  CHECK(guest.run().reason == StopReason::kPowerOff);
  CHECK(guest.console.text() == "\xff\x60");
}

TEST_CASE("PVH start info is in EBX") {
  if (!have_kvm()) return;
  // mov al, [ebx]; out dx, al: the lowest byte of the magic number
  Guest guest(set_port(0x3f8) + code({0x8a, 0x03, 0xee}) + power_off() + forever());
  CHECK(guest.run().reason == StopReason::kPowerOff);
  CHECK(guest.console.text() == "\x78");
}

TEST_CASE("a paused guest does nothing, and goes on when resumed") {
  if (!have_kvm()) return;
  // Prints "." for ever.
  Guest guest(set_port(0x3f8) + code({0xb0, '.', 0xee, 0xeb, 0xfd}), 2);
  REQUIRE(guest.vm->start(guest.ending.callback()));
  for (int round = 0; round < 20; ++round) {
    guest.console.wait_for(guest.console.text().size() + 1);
    guest.vm->pause();
    CHECK(guest.vm->paused());
    const size_t printed = guest.console.text().size();
    std::this_thread::yield();
    CHECK(guest.console.text().size() == printed);
    guest.vm->pause();
    guest.vm->resume();
    guest.vm->resume();
    CHECK_FALSE(guest.vm->paused());
  }
  guest.vm->pause();
  guest.vm.reset();
  CHECK(guest.ending.wait().reason == StopReason::kKilled);
}

TEST_CASE("the power button is seen in PM1 status") {
  if (!have_kvm()) return;
  // Waits until the status byte at 0x601 is not zero, prints it, powers off.
  Guest guest(print("x") + set_port(0x601) + code({0xec, 0x84, 0xc0, 0x74, 0xfb}) +
              set_port(0x3f8) + code({0xee}) + power_off() + forever());
  REQUIRE(guest.vm->start(guest.ending.callback()));
  guest.console.wait_for(1);
  guest.vm->power_button();
  CHECK(guest.ending.wait().reason == StopReason::kPowerOff);
  CHECK(guest.console.text() == "x\x01");
}

TEST_CASE("a device comes into a running guest, which lets go of it when asked") {
  if (!have_kvm()) return;
  // Waits until a dword register of the hotplug block is not zero; EAX has it then.
  const auto await = [](unsigned port) {
    return set_port(port) + code({0xed, 0x85, 0xc0, 0x74, 0xfb});  // in eax, dx; test; jz
  };
  const Bytes write_back = code({0xef});  // out dx, eax
  Guest guest(print("x") + await(0x680) + write_back + print("p") + await(0x684) + set_port(0x688) +
              write_back + print("e") + await(0x680) + print("q") + power_off() + forever());
  const auto thread = IoThread::start({.name = "io-test"}).value();
  const auto plug = [&] { return guest.vm->plug(std::make_unique<VirtioRng>(*thread)); };
  CHECK_FALSE(plug().ok());  // not started
  const unsigned fixed = guest.vm->add_virtio(std::make_unique<VirtioRng>(*thread)).value();
  REQUIRE(guest.vm->start(guest.ending.callback()));
  guest.console.wait_for(1);
  const unsigned slot = plug().value();
  CHECK(slot == fixed + 1);
  guest.console.wait_for(2);
  CHECK(guest.vm->ask_to_unplug(fixed).error().kind == ErrorKind::kNotFound);
  CHECK(guest.vm->unplug(fixed).error().kind == ErrorKind::kNotFound);
  REQUIRE(guest.vm->ask_to_unplug(slot));
  CHECK(guest.ejected.get_future().get() == slot);
  guest.console.wait_for(3);
  // A paused guest stays paused.
  guest.vm->pause();
  REQUIRE(guest.vm->unplug(slot));
  CHECK(guest.vm->paused());
  CHECK(guest.vm->unplug(slot).error().kind == ErrorKind::kNotFound);
  CHECK(plug().value() == slot);
  CHECK(guest.vm->paused());
  guest.vm->resume();
  CHECK(guest.ending.wait().reason == StopReason::kPowerOff);
  CHECK(guest.console.text() == "xpeq");
  CHECK_FALSE(plug().ok());
  REQUIRE(guest.vm->unplug(slot));  // of a guest that has ended
  guest.vm.reset();                 // its devices go before their thread
}

TEST_CASE("a guest with RAM above 4 GiB starts") {
  if (!have_kvm()) return;
  Guest guest(power_off() + forever(), 1, 3 * kGiB + 512 * kMiB);
  CHECK(guest.run().reason == StopReason::kPowerOff);
}

TEST_CASE("the most vCPUs there may be are made, and one more is refused") {
  if (!have_kvm()) return;
  Guest guest(power_off() + forever(), kMaxVcpus);
  CHECK(guest.run().reason == StopReason::kPowerOff);
  for (const unsigned vcpus : {0U, kMaxVcpus + 1}) {
    Result<std::unique_ptr<Vm>> vm =
        Vm::create(kvm(), {.name = "test", .memory_bytes = 16 * kMiB, .vcpus = vcpus});
    REQUIRE_FALSE(vm);
    CHECK(vm.error().kind == ErrorKind::kUsage);
  }
}

TEST_CASE("vCPU threads are named, and stay on the host CPUs they are given") {
  if (!have_kvm()) return;
  TemporaryFolder folder;
  const std::string path = folder.path() + "/guest";
  const Bytes file = TestPvhElf{.code = print("x") + forever()}.build();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
  Console console;
  auto vm = Vm::create(kvm(), {.name = "test",
                               .memory_bytes = 16 * kMiB,
                               .vcpus = 1,
                               .vcpu_cpus = {{0}},
                               .serial = &console})
                .value();
  REQUIRE(load(*vm, path));
  REQUIRE(vm->start([](Stopped) {}));
  console.wait_for(1);
  bool found = false;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (read_attribute(task.path() / "comm") != "vcpu-0") continue;
    found = true;
    const std::string status = read_attribute(task.path() / "status");
    CHECK_THAT(status, Contains("Cpus_allowed_list:\t0\n"));
  }
  CHECK(found);

  auto nowhere =
      Vm::create(
          kvm(),
          {.name = "test", .memory_bytes = 16 * kMiB, .vcpu_cpus = {{1023}}, .serial = &console})
          .value();
  REQUIRE(load(*nowhere, path));
  Ending ending;
  Result<> started = nowhere->start(ending.callback());
  REQUIRE_FALSE(started);
  CHECK_THAT(started.error().message, Contains("vCPU 0"));
  nowhere.reset();
  CHECK(ending.calls() == 0);
}

TEST_CASE("what cannot be loaded is named, with what to do") {
  if (!have_kvm()) return;
  TemporaryFolder folder;
  auto vm = Vm::create(kvm(), {.name = "test", .memory_bytes = 16 * kMiB}).value();
  struct Kernel {
    std::string kernel_path;
    std::string initrd_path;
    std::string command_line;
  };
  const auto error = [&](const Kernel& kernel) {
    Result<> loaded = load(*vm, kernel.kernel_path, kernel.initrd_path, kernel.command_line);
    return loaded ? "" : loaded.error().message;
  };
  const auto file = [&](const char* name, const Bytes& content) {
    std::ofstream(folder.path() + "/" + name, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
    return folder.path() + "/" + name;
  };
  CHECK_THAT(error({.kernel_path = folder.path() + "/none"}), Contains("cannot be opened"));
  CHECK_THAT(error({.kernel_path = folder.path()}), Contains("is a folder"));
  CHECK_THAT(error({.kernel_path = "/dev/null"}), Contains("not a regular file"));
  CHECK_THAT(error({.kernel_path = file("empty", {})}), Contains("is empty"));
  CHECK_THAT(error({.kernel_path = file("text", to_bytes("not a kernel, but a text"))}),
             Contains("/text is not a kernel"));
  const std::string large = file("large", TestBzImage{.init_size = 64U << 20U}.build());
  CHECK_THAT(error({.kernel_path = large}), Contains("needs memory up to 80 MiB"));
  const std::string good = file("good", TestPvhElf{}.build());
  CHECK_THAT(error({.kernel_path = good, .initrd_path = folder.path() + "/none"}),
             Contains("initrd") && Contains("cannot be opened"));
  CHECK_THAT(error({.kernel_path = good, .initrd_path = file("initrd", Bytes(16 * kMiB))}),
             Contains("does not fit"));
  CHECK_THAT(error({.kernel_path = good, .command_line = std::string(2048, 'x')}),
             Contains("2048 characters"));
  CHECK(error({.kernel_path = good, .command_line = std::string(2047, 'x')}).empty());
}

TEST_CASE("KVM that is missing or forbidden is an error that says what to do") {
  CHECK_THAT(Kvm::open("/dev/no-such-kvm").error().message,
             Contains("/dev/no-such-kvm is missing") && Contains("kvm_intel or kvm_amd"));
  CHECK_THAT(Kvm::open("/dev/null").error().message, Contains("does not answer as KVM"));
}
