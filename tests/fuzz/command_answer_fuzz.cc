// What the program of an array answers: any text gives an answer or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/command_array.h"

namespace {

template <typename T>
void read(plumb::Result<T> answer) {
  ENSURE(answer.ok() || !answer.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace plumb::command_answer;
  read(found(text));
  read(volume(text));
  read(volumes(text));
  read(snapshots(text));
  read(mapped(text));
  read(capacity(text));
  read(nothing(text));
  return 0;
}
