#include "base/nearest.h"

#include <catch2/catch.hpp>

namespace plumb {

TEST_CASE("edit distance counts single changes") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("memory", "memory") == 0);
  CHECK(edit_distance("memroy", "memory") == 1);
  CHECK(edit_distance("rnu", "run") == 1);
  CHECK(edit_distance("mem", "memory") == 3);
  CHECK(edit_distance("", "abc") == 3);
}

TEST_CASE("the nearest known word is offered, a distant one is not") {
  const std::string_view known[] = {"memory", "kernel", "vcpus"};
  CHECK(nearest_hint("memroy", known) == "; did you mean 'memory'?");
  CHECK(nearest_hint("vcpu", known) == "; did you mean 'vcpus'?");
  CHECK(nearest_hint("x", known).empty());
  CHECK(nearest_hint("colour", known).empty());
  CHECK(nearest_hint("anything", {}).empty());
}

}  // namespace plumb
