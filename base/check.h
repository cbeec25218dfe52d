// ENSURE: for our own bugs only. What a guest, a disk, a peer or a user sends is never checked
// with it; that gets a Result (base/result.h). Not named CHECK, which belongs to Catch2.
#pragma once

namespace plumb {

// Prints "FILE:LINE: ENSURE failed: EXPRESSION" and aborts. Any thread.
[[noreturn]] void check_failed(const char* file, int line, const char* expression);

}  // namespace plumb

#define ENSURE(condition)                       \
  (__builtin_expect(!!(condition), 1) ? (void)0 \
                                      : ::plumb::check_failed(__FILE__, __LINE__, #condition))
