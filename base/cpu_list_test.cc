#include "base/cpu_list.h"

#include <sched.h>

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("a list of CPUs is numbers and ranges") {
  CHECK(parse_cpu_list("0").value() == std::vector{0});
  CHECK(parse_cpu_list("2-4").value() == std::vector{2, 3, 4});
  CHECK(parse_cpu_list("8,0-1,5-5").value() == std::vector{8, 0, 1, 5});
  CHECK(parse_cpu_list("1023").value() == std::vector{1023});
}

TEST_CASE("what is not a list of CPUs is refused") {
  for (const char* text : {"", "-", "-1", "1-", "3-1", "1,", ",1", "1 2", "a", "1024", "0-99999",
                           "1-2-3", "0x1", "18446744073709551616"}) {
    INFO(text);
    CHECK(parse_cpu_list(text).error().message ==
          std::string("'") + text + "' is not a list of CPUs such as 0-3,8");
  }
}

TEST_CASE("a thread is bound to CPUs that are there, and to no others") {
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof(before), &before) == 0);
  int first = 0;
  while (!CPU_ISSET(static_cast<size_t>(first), &before)) ++first;
  REQUIRE(bind_to_cpus(0, {first}).ok());
  cpu_set_t after;
  REQUIRE(::sched_getaffinity(0, sizeof(after), &after) == 0);
  CHECK(CPU_COUNT(&after) == 1);
  CHECK(CPU_ISSET(static_cast<size_t>(first), &after));
  CHECK(!bind_to_cpus(0, {1000}).ok());
  ::sched_setaffinity(0, sizeof(before), &before);
}

}  // namespace plumb
