// Serial: a 16550A UART. Source: National Semiconductor PC16550D data sheet (June 1995).
//
// Characters take no time: what the guest writes goes to the backend at once, and is held in the
// FIFO, with THRE clear, only while the backend takes none. A guest that writes on regardless
// loses characters, as on hardware, and costs nothing but its own vCPU.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/bus.h"
#include "vmm/char_backend.h"

namespace plumb {

class Serial : public BusHandler, public CharFrontend {
 public:
  // `interrupt` pulses the UART's edge-triggered line; any thread, with no lock held. `backend`
  // may be nullptr (output is dropped) and outlives this.
  Serial(CharBackend* backend, std::function<void()> interrupt);
  ~Serial() override;

  // BusHandler: eight registers; accesses of more than one byte reach the first only.
  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

  // CharFrontend
  size_t receive(std::span<const std::byte> data) override;
  void backend_ready() override;
  void connection_changed(bool connected) override;

 private:
  static constexpr size_t kFifoSize = 16;
  struct Fifo {
    std::array<std::byte, kFifoSize> bytes{};
    size_t first = 0;
    size_t count = 0;

    void push(std::byte byte) { bytes[(first + count++) % kFifoSize] = byte; }
    std::byte pop();
    void clear() { first = count = 0; }
  };
  // What to do once the lock is released.
  struct Afterwards {
    bool interrupt = false;
    bool frontend_ready = false;
    bool drain = false;
  };

  uint8_t read_register(uint64_t offset, Afterwards& afterwards);
  uint8_t read_receiver(Afterwards& afterwards);
  void write_register(uint64_t offset, uint8_t value, Afterwards& afterwards);
  void write_transmitter(uint8_t value, Afterwards& afterwards);
  void write_fifo_control(uint8_t value, Afterwards& afterwards);
  uint8_t identification() const;
  uint8_t line_status() const;
  uint8_t modem_status() const;
  size_t receive_room() const;
  void update_line(Afterwards& afterwards);
  void act(const Afterwards& afterwards);
  void drain();

  CharBackend* const backend_;
  const std::function<void()> interrupt_;

  std::mutex mutex_;  // guards all below; never held while the backend is called
  Fifo received_;
  Fifo transmit_;
  uint8_t interrupt_enable_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t scratch_ = 0;
  uint8_t fifo_control_ = 0;
  uint16_t divisor_ = 12;  // 9600 baud; kept for the guest, of no effect
  bool overrun_ = false;
  bool transmitter_empty_news_ = false;  // an interrupt that reading IIR acknowledges
  bool line_ = false;
  bool receiver_was_full_ = false;  // the backend waits for frontend_ready()
  bool draining_ = false;           // a thread is in drain()
  bool backend_was_ready_ = false;  // since drain() last tried
};

}  // namespace plumb
