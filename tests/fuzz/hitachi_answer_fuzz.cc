// What a Hitachi array answers: any text gives a value or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/hitachi_answer.h"

namespace {

template <typename T>
void read(plumb::Result<T> answer) {
  ENSURE(answer.ok() || !answer.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace plumb::hitachi_answer;
  read(ldev(text));
  read(ldevs(text));
  read(pairs(text));
  read(shadow_image_pairs(text));
  read(job(text));
  read(pool(text));
  read(session(text));
  ENSURE(reason(text).size() <= 4000);
  return 0;
}
