// What the command line of an EqualLogic group prints: any text gives answers or a sentence.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/arrays/eql_cli.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace plumb::eql;
  const std::vector<std::string> commands = {"volume select v show", "volume select w show"};
  const auto read = answers(text, "g", commands);
  ENSURE(!read.ok() || read.value().size() == commands.size());
  if (read.ok()) {
    for (const Answer& answer : read.value()) {
      static_cast<void>(answer.after("Size:"));
      for (const std::string& name : first_column(answer)) ENSURE(name.size() <= size);
    }
  }
  const auto bytes = size_bytes(text);
  ENSURE(!bytes.ok() || bytes.value() <= uint64_t{1000} * 1000 * 1000 * 1000 * 1000 * 1000);
  return 0;
}
