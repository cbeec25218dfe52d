// What the probe guest needs of the machine: ports, memory-mapped registers, the serial port.
#pragma once

#include <stddef.h>
#include <stdint.h>

inline void out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
inline void out16(uint16_t port, uint16_t value) {
  asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

inline void out32(uint16_t port, uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
inline uint32_t in32(uint16_t port) {
  uint32_t value = 0;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

template <typename T>
T read_register(uintptr_t address) {
  return *reinterpret_cast<volatile T*>(address);
}
template <typename T>
void write_register(uintptr_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}

// Between filling a ring and telling the device, and the other way round.
inline void memory_barrier() { asm volatile("mfence" : : : "memory"); }
inline void pause_cpu() { asm volatile("pause"); }

void print(const char* text);
void print_number(uint64_t number);
[[noreturn]] void power_off();
// Prints "PROBE FAILED: text" and ends the run.
[[noreturn]] void fail(const char* text);

// The value of `key=` in the command line, or `otherwise`. Numbers may end in K, M or G.
bool has_word(const char* command_line, const char* word);
uint64_t number_option(const char* command_line, const char* key, uint64_t otherwise);
