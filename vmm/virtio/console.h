// VirtioConsole: the console device with two ports (virtio 1.2, section 5.3): port 0 is the console
// hvc0, port 1 is named org.qemu.guest_agent.0 and carries the guest agent. Each stands on a
// CharBackend; a guest that does not read, and a backend that does not take, slow the other side
// down and nothing else.
#pragma once

#include <array>

#include "vmm/char_backend.h"
#include "vmm/virtio/device_queues.h"

namespace plumb {

class VirtioConsole final : public VirtioDevice {
 public:
  static constexpr uint32_t kPorts = 2;

  // A port without a backend (nullptr) is not there for the guest. Backends and `thread` outlive
  // the device; a backend may live on `thread` or on another one.
  VirtioConsole(CharBackend* console, CharBackend* agent, IoThread& thread);
  ~VirtioConsole() override { reset(); }

  uint16_t device_id() const override { return kVirtioIdConsole; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint32_t offset, std::span<std::byte> data) override;
  void write_config(uint32_t, std::span<const std::byte>) override {}
  Result<> activate(const VirtioActivation& activation) override;
  void reset() override;

 private:
  // Both data queues of port 0, both control queues, both data queues of port 1.
  static constexpr std::array<uint16_t, 6> kQueueSizes{128, 128, 64, 64, 128, 128};

  // One port. Its CharFrontend methods may come on any thread and go to the I/O thread.
  class Port final : public CharFrontend {
   public:
    Port(VirtioConsole& console, uint32_t id, CharBackend* backend);

    size_t receive(std::span<const std::byte> data) override;
    void backend_ready() override;
    void connection_changed(bool connected) override;

    VirtioConsole& console;
    const uint32_t id;
    CharBackend* const backend;

    // Only on the I/O thread.
    uint8_t due = 0;           // control messages to send, as bits
    bool connected = false;    // someone is at the backend's other end
    bool guest_ready = false;  // the guest's driver knows the port
    bool guest_open = false;   // someone in the guest has the port open
    bool input_waits = false;  // the backend has bytes that the guest had no buffers for
    std::optional<VirtqueueChain> sending;  // half taken by the backend
  };

  static uint16_t receive_queue(uint32_t port) { return port == 0 ? 0 : 4; }
  static uint16_t transmit_queue(uint32_t port) { return port == 0 ? 1 : 5; }

  void start(uint64_t features);
  void stop();
  void kicked(uint16_t queue);
  void read_control();
  void control_message(std::span<const iovec> parts);
  void write_control();
  bool write_message(Port& port, unsigned message);
  size_t give_to_guest(Port& port, std::span<const std::byte> data);
  void take_from_guest(Port& port);
  bool send_rest(Port& port);
  void guest_opened(Port& port, bool open);

  std::array<Port, kPorts> ports_;
  DeviceQueues queues_;
  bool multiport_ = false;
};

}  // namespace plumb
