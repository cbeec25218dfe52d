// What the programs of Ceph answer: any text gives a value or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/rbd_answer.h"

namespace {

template <typename T>
void read(plumb::Result<T> answer) {
  ENSURE(answer.ok() || !answer.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace plumb::rbd_answer;
  read(images(text));
  read(names(text));
  read(image(text));
  read(watchers(text));
  read(fsid(text));
  read(capacity(text, "rbd"));
  read(health(text, "rbd"));
  return 0;
}
