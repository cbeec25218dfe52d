#include "vmm/virtio/console.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/endian.h"
#include "base/iovecs.h"
#include "base/log.h"

namespace plumb {
namespace {

constexpr uint64_t kFeatureMultiport = 1ULL << 1U;
constexpr uint16_t kControlToGuest = 2;
constexpr uint16_t kControlFromGuest = 3;
constexpr uint16_t kMaxSegments = 64;
constexpr uint32_t kConsolePort = 0;
constexpr uint32_t kAgentPort = 1;
constexpr std::string_view kAgentName = "org.qemu.guest_agent.0";

// Section 5.3.6.2. In this order they are sent, so each is also the bit in Port::due.
struct Control {
  uint32_t id;
  uint16_t event;
  uint16_t value;
};
static_assert(sizeof(Control) == 8);
constexpr uint16_t kDeviceReady = 0;
constexpr uint16_t kDeviceAdd = 1;
constexpr uint16_t kPortReady = 3;
constexpr uint16_t kPortConsole = 4;
constexpr uint16_t kPortOpen = 6;
constexpr uint16_t kPortName = 7;
constexpr std::array<uint16_t, 4> kSendOrder{kDeviceAdd, kPortConsole, kPortName, kPortOpen};

constexpr uint8_t due_bit(uint16_t event) { return static_cast<uint8_t>(1U << event); }

}  // namespace

VirtioConsole::Port::Port(VirtioConsole& owner, uint32_t number, CharBackend* other_end)
    : console(owner), id(number), backend(other_end) {}

size_t VirtioConsole::Port::receive(std::span<const std::byte> data) {
  size_t taken = 0;
  console.queues_.thread().run([&] { taken = console.give_to_guest(*this, data); });
  return taken;
}

void VirtioConsole::Port::backend_ready() {
  console.queues_.thread().run([this] { console.take_from_guest(*this); });
}

void VirtioConsole::Port::connection_changed(bool now_connected) {
  console.queues_.thread().run([this, now_connected] {
    if (connected == now_connected) return;
    connected = now_connected;
    // The guest hears of it once it knows the port.
    if (id != kConsolePort && guest_ready) due |= due_bit(kPortOpen);
    console.write_control();
  });
}

VirtioConsole::VirtioConsole(CharBackend* console, CharBackend* agent, IoThread& thread)
    : ports_{Port(*this, kConsolePort, console), Port(*this, kAgentPort, agent)},
      queues_({.name = "console",
               .sizes = kQueueSizes,
               .max_segments = kMaxSegments,
               .kicked = [this](uint16_t queue) { kicked(queue); }},
              thread) {}

uint64_t VirtioConsole::features() const {
  return kVirtioFVersion1 | kVirtioFIndirectDesc | kVirtioFEventIdx | kFeatureMultiport;
}

void VirtioConsole::read_config(uint32_t offset, std::span<std::byte> data) {
  std::array<std::byte, 12> config{};  // columns and rows, not offered; ports; emergency write
  store_le<uint32_t>(config.data() + 4, kPorts);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t field = uint64_t{offset} + i;
    data[i] = field < config.size() ? config[field] : std::byte{0};
  }
}

Result<> VirtioConsole::activate(const VirtioActivation& activation) {
  TRY(queues_.activate(activation, [&] { start(activation.features); }));
  // Not on the I/O thread: a backend on another thread calls back from there.
  for (Port& port : ports_) {
    if (port.backend != nullptr) port.backend->attach(&port);
  }
  return {};
}

void VirtioConsole::start(uint64_t features) {
  multiport_ = (features & kFeatureMultiport) != 0;
  for (Port& port : ports_) {
    port.due = 0;
    port.connected = false;
    port.input_waits = false;
    port.guest_ready = false;
    // Without ports there is only the console, and nobody says that it is open.
    port.guest_open = !multiport_ && port.id == kConsolePort;
  }
}

void VirtioConsole::reset() {
  for (Port& port : ports_) {
    if (port.backend != nullptr) port.backend->attach(nullptr);
  }
  queues_.reset([this] { stop(); });
}

void VirtioConsole::stop() {
  for (Port& port : ports_) {
    port.guest_open = false;
    if (!port.sending) continue;
    queues_.abandon(transmit_queue(port.id), std::move(*port.sending));
    port.sending.reset();
  }
}

void VirtioConsole::kicked(uint16_t queue) {
  if (queue == kControlFromGuest) return read_control();
  if (queue == kControlToGuest) return write_control();
  for (Port& port : ports_) {
    if (queue == transmit_queue(port.id)) return take_from_guest(port);
    if (queue == receive_queue(port.id) && port.input_waits) {
      port.input_waits = false;
      port.backend->frontend_ready();
      return;
    }
  }
}

void VirtioConsole::read_control() {
  queues_.serve(kControlFromGuest, [this](VirtqueueChain chain) {
    control_message(chain.readable());
    queues_.push(kControlFromGuest, std::move(chain), 0);
    return true;
  });
  write_control();
}

void VirtioConsole::control_message(std::span<const iovec> parts) {
  std::array<std::byte, sizeof(Control)> bytes;
  if (copy_from(parts, bytes) != bytes.size()) return;
  const auto id = load_le<uint32_t>(bytes.data());
  const auto event = load_le<uint16_t>(bytes.data() + 4);
  const auto value = load_le<uint16_t>(bytes.data() + 6);
  if (event == kDeviceReady) {
    for (Port& port : ports_) {
      if (value == 1 && port.backend != nullptr) port.due |= due_bit(kDeviceAdd);
    }
    return;
  }
  if (id >= kPorts || ports_[id].backend == nullptr) return;
  Port& port = ports_[id];
  if (event == kPortReady && value == 1) {
    port.guest_ready = true;
    port.due |= due_bit(id == kConsolePort ? kPortConsole : kPortName);
    if (id == kConsolePort || port.connected) port.due |= due_bit(kPortOpen);
  } else if (event == kPortOpen) {
    guest_opened(port, value != 0);
  }
}

void VirtioConsole::guest_opened(Port& port, bool open) {
  port.guest_open = open;
  if (open && port.input_waits) {
    port.input_waits = false;
    port.backend->frontend_ready();
  }
}

// Sends what is due as far as the guest has buffers; what it has none for stays due.
void VirtioConsole::write_control() {
  if (!multiport_) return;
  for (Port& port : ports_) {
    for (const uint16_t event : kSendOrder) {
      if ((port.due & due_bit(event)) == 0) continue;
      if (!write_message(port, event)) {
        // Asks for a kick; when buffers came just now, once more.
        if (queues_.enable_kicks(kControlToGuest) && write_message(port, event)) continue;
        return;
      }
    }
  }
}

bool VirtioConsole::write_message(Port& port, unsigned message) {
  std::optional<VirtqueueChain> chain = queues_.pop(kControlToGuest);
  if (!chain) return false;
  const auto event = static_cast<uint16_t>(message);
  port.due = static_cast<uint8_t>(port.due & ~due_bit(event));
  std::array<std::byte, sizeof(Control) + kAgentName.size()> bytes{};
  const bool open = port.id == kConsolePort || port.connected;
  store_le<uint32_t>(bytes.data(), port.id);
  store_le<uint16_t>(bytes.data() + 4, event);
  store_le<uint16_t>(bytes.data() + 6, event == kPortOpen && !open ? 0 : 1);
  size_t length = sizeof(Control);
  if (event == kPortName) {
    std::memcpy(bytes.data() + length, kAgentName.data(), kAgentName.size());
    length = bytes.size();
  }
  const size_t written = copy_to(chain->writable(), {bytes.data(), length});
  queues_.push(kControlToGuest, std::move(*chain), static_cast<uint32_t>(written));
  return true;
}

// Bytes for the guest, as far as it has the port open and gave buffers.
size_t VirtioConsole::give_to_guest(Port& port, std::span<const std::byte> data) {
  const uint16_t queue = receive_queue(port.id);
  size_t taken = 0;
  // Bounded: chains without room would let a driver keep us here.
  for (int left = kQueueSizes[0]; left > 0 && taken < data.size() && port.guest_open; --left) {
    std::optional<VirtqueueChain> chain = queues_.pop(queue);
    if (!chain && queues_.enable_kicks(queue)) chain = queues_.pop(queue);
    if (!chain) break;
    const size_t written = copy_to(chain->writable(), data.subspan(taken));
    taken += written;
    queues_.push(queue, std::move(*chain), static_cast<uint32_t>(written));
  }
  port.input_waits = taken < data.size();
  return taken;
}

void VirtioConsole::take_from_guest(Port& port) {
  const uint16_t queue = transmit_queue(port.id);
  if (!queues_.usable(queue)) return;
  if (port.sending && !send_rest(port)) return;
  queues_.serve(queue, [&](VirtqueueChain chain) {
    port.sending = std::move(chain);
    return send_rest(port);
  });
}

// Passes on the rest of the chain in `sending`. False when the backend has no room: it says when.
bool VirtioConsole::send_rest(Port& port) {
  for (iovec& part : port.sending->readable()) {
    // Without a backend the bytes go nowhere.
    const size_t taken =
        port.backend == nullptr
            ? part.iov_len
            : port.backend->write({static_cast<const std::byte*>(part.iov_base), part.iov_len});
    part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
    part.iov_len -= taken;
    if (part.iov_len > 0) return false;
  }
  queues_.push(transmit_queue(port.id), std::move(*port.sending), 0);
  port.sending.reset();
  return true;
}

}  // namespace plumb
