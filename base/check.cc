#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace plumb {

void check_failed(const char* file, int line, const char* expression) {
  std::fprintf(stderr, "%s:%d: ENSURE failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace plumb
