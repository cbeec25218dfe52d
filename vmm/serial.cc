#include "vmm/serial.h"

#include <algorithm>
#include <utility>

namespace plumb {
namespace {

// Registers; the first two are the divisor latch while LCR bit 7 is set (data sheet, 8.0).
constexpr uint64_t kData = 0;
constexpr uint64_t kInterruptEnable = 1;
constexpr uint64_t kFifoControl = 2;  // reads: interrupt identification
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kIerReceived = 1U << 0U;
constexpr uint8_t kIerTransmitterEmpty = 1U << 1U;
constexpr uint8_t kIerLineStatus = 1U << 2U;

constexpr uint8_t kIirNone = 0x1;
constexpr uint8_t kIirTransmitterEmpty = 0x2;
constexpr uint8_t kIirReceived = 0x4;
constexpr uint8_t kIirLineStatus = 0x6;
constexpr uint8_t kIirTimeout = 0xc;
constexpr uint8_t kIirFifos = 0xc0;

constexpr uint8_t kFcrEnable = 1U << 0U;
constexpr uint8_t kFcrClearReceiver = 1U << 1U;
constexpr uint8_t kFcrClearTransmitter = 1U << 2U;

constexpr uint8_t kLcrDivisorLatch = 1U << 7U;

constexpr uint8_t kMcrOut2 = 1U << 3U;  // on a PC, connects the interrupt line
constexpr uint8_t kMcrLoop = 1U << 4U;

constexpr uint8_t kLsrDataReady = 1U << 0U;
constexpr uint8_t kLsrOverrun = 1U << 1U;
constexpr uint8_t kLsrHoldingEmpty = 1U << 5U;
constexpr uint8_t kLsrTransmitterEmpty = 1U << 6U;

constexpr uint8_t kMsrConnected = 0xb0;  // carrier, data set ready, clear to send

}  // namespace

std::byte Serial::Fifo::pop() {
  const std::byte byte = bytes[first];
  first = (first + 1) % kFifoSize;
  --count;
  return byte;
}

Serial::Serial(CharBackend* backend, std::function<void()> interrupt)
    : backend_(backend), interrupt_(std::move(interrupt)) {
  if (backend_ != nullptr) backend_->attach(this);
}

Serial::~Serial() {
  if (backend_ != nullptr) backend_->attach(nullptr);
}

void Serial::read(uint64_t offset, std::span<std::byte> data) {
  Afterwards afterwards;
  {
    const std::lock_guard lock(mutex_);
    data[0] = std::byte{read_register(offset, afterwards)};
    update_line(afterwards);
  }
  act(afterwards);
}

void Serial::write(uint64_t offset, std::span<const std::byte> data) {
  Afterwards afterwards;
  {
    const std::lock_guard lock(mutex_);
    write_register(offset, static_cast<uint8_t>(data[0]), afterwards);
    update_line(afterwards);
  }
  act(afterwards);
}

uint8_t Serial::read_register(uint64_t offset, Afterwards& afterwards) {
  const bool divisor = (line_control_ & kLcrDivisorLatch) != 0;
  switch (offset) {
    case kData:
      return divisor ? static_cast<uint8_t>(divisor_) : read_receiver(afterwards);
    case kInterruptEnable:
      return divisor ? static_cast<uint8_t>(divisor_ >> 8U) : interrupt_enable_;
    case kFifoControl: {
      const uint8_t identified = identification();
      if (identified == kIirTransmitterEmpty) transmitter_empty_news_ = false;
      return static_cast<uint8_t>(identified | ((fifo_control_ & kFcrEnable) != 0 ? kIirFifos : 0));
    }
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus: {
      const uint8_t status = line_status();
      overrun_ = false;
      return status;
    }
    case kModemStatus:
      return modem_status();
    default:
      return scratch_;
  }
}

uint8_t Serial::read_receiver(Afterwards& afterwards) {
  if (received_.count == 0) return 0;
  const auto byte = static_cast<uint8_t>(received_.pop());
  if (received_.count == 0 && receiver_was_full_) {
    receiver_was_full_ = false;
    afterwards.frontend_ready = true;
  }
  return byte;
}

void Serial::write_register(uint64_t offset, uint8_t value, Afterwards& afterwards) {
  const bool divisor = (line_control_ & kLcrDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00U) | value);
      } else {
        write_transmitter(value, afterwards);
      }
      return;
    case kInterruptEnable:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xffU) | (value << 8U));
        return;
      }
      // Enabling the interrupt while the transmitter is empty raises it (8.6.4): drivers start
      // their output that way.
      if ((value & ~interrupt_enable_ & kIerTransmitterEmpty) != 0 && transmit_.count == 0) {
        transmitter_empty_news_ = true;
      }
      interrupt_enable_ = value & 0xfU;
      return;
    case kFifoControl:
      write_fifo_control(value, afterwards);
      return;
    case kLineControl:
      line_control_ = value;
      return;
    case kModemControl:
      modem_control_ = value & 0x1fU;
      return;
    case kScratch:
      scratch_ = value;
      return;
    default:
      return;  // the status registers are read only
  }
}

void Serial::write_transmitter(uint8_t value, Afterwards& afterwards) {
  transmitter_empty_news_ = false;
  if ((modem_control_ & kMcrLoop) != 0) {
    if (receive_room() > 0) {
      received_.push(std::byte{value});
    } else {
      overrun_ = true;
    }
    transmitter_empty_news_ = true;
    return;
  }
  if (transmit_.count < kFifoSize) transmit_.push(std::byte{value});
  afterwards.drain = true;
}

void Serial::write_fifo_control(uint8_t value, Afterwards& afterwards) {
  const bool switched = ((value ^ fifo_control_) & kFcrEnable) != 0;
  if (switched || (value & kFcrClearReceiver) != 0) {
    received_.clear();
    afterwards.frontend_ready = std::exchange(receiver_was_full_, false);
  }
  // Not while drain() has a copy of it: then it is on its way out.
  if ((switched || (value & kFcrClearTransmitter) != 0) && !draining_) transmit_.clear();
  fifo_control_ = value & 0xc9U;
}

// The highest of the pending interrupts, without the FIFO bits (data sheet, table IV).
uint8_t Serial::identification() const {
  if ((interrupt_enable_ & kIerLineStatus) != 0 && overrun_) return kIirLineStatus;
  if ((interrupt_enable_ & kIerReceived) != 0 && received_.count > 0) {
    static constexpr size_t kTriggers[] = {1, 4, 8, 14};
    const bool fifos = (fifo_control_ & kFcrEnable) != 0;
    const size_t trigger = fifos ? kTriggers[fifo_control_ >> 6U] : 1;
    // Below the trigger the time-out interrupt comes at once: waiting would serve no one.
    return received_.count >= trigger ? kIirReceived : kIirTimeout;
  }
  if ((interrupt_enable_ & kIerTransmitterEmpty) != 0 && transmitter_empty_news_) {
    return kIirTransmitterEmpty;
  }
  return kIirNone;
}

uint8_t Serial::line_status() const {
  unsigned status = 0;
  if (received_.count > 0) status |= kLsrDataReady;
  if (overrun_) status |= kLsrOverrun;
  if (transmit_.count == 0) status |= kLsrHoldingEmpty | kLsrTransmitterEmpty;
  return static_cast<uint8_t>(status);
}

// In loop-back the modem's inputs are our own outputs (8.7): drivers find the chip by that.
uint8_t Serial::modem_status() const {
  if ((modem_control_ & kMcrLoop) == 0) return kMsrConnected;
  const unsigned outputs = modem_control_;
  return static_cast<uint8_t>(((outputs & 0x2U) << 3U) | ((outputs & 0x1U) << 5U) |
                              ((outputs & 0xcU) << 4U));
}

size_t Serial::receive_room() const {
  const size_t size = (fifo_control_ & kFcrEnable) != 0 ? kFifoSize : 1;
  return size - std::min(size, received_.count);
}

// The line goes to an edge-triggered input: only its rise counts.
void Serial::update_line(Afterwards& afterwards) {
  const bool line =
      (modem_control_ & (kMcrOut2 | kMcrLoop)) == kMcrOut2 && identification() != kIirNone;
  if (line && !line_) afterwards.interrupt = true;
  line_ = line;
}

void Serial::act(const Afterwards& afterwards) {
  if (afterwards.interrupt) interrupt_();
  if (backend_ == nullptr && afterwards.drain) {
    // Without a backend everything is taken at once.
    Afterwards more;
    {
      const std::lock_guard lock(mutex_);
      transmit_.clear();
      transmitter_empty_news_ = true;
      update_line(more);
    }
    if (more.interrupt) interrupt_();
    return;
  }
  if (afterwards.drain) drain();
  if (afterwards.frontend_ready && backend_ != nullptr) backend_->frontend_ready();
}

// One thread at a time, so that characters of several vCPUs keep their order although the lock
// is not held around the backend's write().
void Serial::drain() {
  std::unique_lock lock(mutex_);
  if (draining_) return;
  draining_ = true;
  Afterwards afterwards;
  while (transmit_.count > 0) {
    std::array<std::byte, kFifoSize> bytes{};
    const size_t count = transmit_.count;
    for (size_t i = 0; i < count; ++i) {
      bytes[i] = transmit_.bytes[(transmit_.first + i) % kFifoSize];
    }
    backend_was_ready_ = false;
    lock.unlock();
    const size_t taken = std::min(count, backend_->write({bytes.data(), count}));
    lock.lock();
    for (size_t i = 0; i < taken; ++i) transmit_.pop();
    if (taken < count && !backend_was_ready_) break;
  }
  draining_ = false;
  if (transmit_.count == 0) transmitter_empty_news_ = true;
  update_line(afterwards);
  lock.unlock();
  if (afterwards.interrupt) interrupt_();
}

size_t Serial::receive(std::span<const std::byte> data) {
  size_t taken = 0;
  Afterwards afterwards;
  {
    const std::lock_guard lock(mutex_);
    // In loop-back the outside is disconnected.
    if ((modem_control_ & kMcrLoop) == 0) taken = std::min(data.size(), receive_room());
    for (size_t i = 0; i < taken; ++i) received_.push(data[i]);
    if (taken < data.size()) receiver_was_full_ = true;
    update_line(afterwards);
  }
  if (afterwards.interrupt) interrupt_();
  return taken;
}

void Serial::backend_ready() {
  {
    const std::lock_guard lock(mutex_);
    backend_was_ready_ = true;
  }
  drain();
}

// A UART without modem has no way to say so, and its lines stay as they are.
void Serial::connection_changed(bool /*connected*/) {}

}  // namespace plumb
