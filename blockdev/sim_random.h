// Numbers drawn from a seed, the same everywhere: for simulations. Not for secrets.
#pragma once

#include <cstdint>

namespace plumb {

// splitmix64 (Steele, Lea, Flood 2014): one word of state, any seed is good.
class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t word = state_;
    word = (word ^ (word >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    word = (word ^ (word >> 27U)) * 0x94d049bb133111ebULL;
    return word ^ (word >> 31U);
  }
  // 0 to `end` - 1; `end` is below 2^32, and what it favours is too little to notice.
  uint32_t below(uint32_t end) { return static_cast<uint32_t>(((next() >> 32U) * end) >> 32U); }
  // True `times` times of 65,536.
  bool chance(uint32_t times) { return (next() >> 48U) < times; }

 private:
  uint64_t state_;
};

}  // namespace plumb
