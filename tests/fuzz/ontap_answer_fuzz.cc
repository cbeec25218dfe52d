// What ONTAP answers, and what the comments of its LUNs say: any text gives a value or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/ontap_answer.h"

namespace {

template <typename T>
void read(plumb::Result<T> answer) {
  ENSURE(answer.ok() || !answer.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace plumb::ontap_answer;
  read(lun(text));
  read(luns(text));
  read(volumes(text));
  read(groups(text));
  read(names(text));
  read(job(text));
  read(job_of(text));
  ENSURE(reason(text).size() <= 1200);
  if (const auto mark = plumb::OntapMark::parse(text)) {
    const auto again = plumb::OntapMark::parse(mark->text());
    ENSURE(again && again->text() == mark->text());
  }
  return 0;
}
