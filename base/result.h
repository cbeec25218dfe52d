// Result<T>: a value, or an Error that says what failed, on what, why, and what to do.
//
// An error is made once, where the operating system or the input is met, with its whole
// sentence; callers pass it on with TRY. Exceptions of libraries stop where the library is
// called and become an Error there.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace plumb {

// The classes of failure that a caller acts on; the command line maps each to an exit code.
enum class ErrorKind : uint8_t {
  kFailed,    // anything without a class of its own
  kUsage,     // the command line or a definition file is wrong
  kNotFound,  // the VM (later: repository) named does not exist
  kLocked,    // held by someone else, who is named in the message
  kArray,     // a storage array, or what stands in for one, did not do what it was asked
  kFreeze,    // a guest was not frozen or thawed; the message says in which state it is
};

struct [[nodiscard]] Error {
  ErrorKind kind = ErrorKind::kFailed;
  int os_errno = 0;     // 0 when no system call failed
  std::string message;  // one sentence, no full stop, no newline
};

template <typename... Args>
Error make_error(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return Error{kind, 0, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
Error failed(fmt::format_string<Args...> format, Args&&... args) {
  return Error{ErrorKind::kFailed, 0, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
Error usage_error(fmt::format_string<Args...> format, Args&&... args) {
  return Error{ErrorKind::kUsage, 0, fmt::format(format, std::forward<Args>(args)...)};
}

// "MESSAGE: STRERROR". `os_errno` is taken by value first, so pass errno itself.
Error os_error_text(int os_errno, std::string message);

template <typename... Args>
Error os_error(int os_errno, fmt::format_string<Args...> format, Args&&... args) {
  return os_error_text(os_errno, fmt::format(format, std::forward<Args>(args)...));
}

template <typename T = void>
class [[nodiscard]] Result {
 public:
  using Value = T;

  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design
  template <typename U>
  requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, T> &&
           !std::is_same_v<std::remove_cvref_t<U>, Error> &&
           !std::is_same_v<std::remove_cvref_t<U>, Result>)
      Result(U&& value)  // NOLINT: unique_ptr<Derived> to unique_ptr<Base> and the like
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    ENSURE(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    ENSURE(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  const T& value() const& {
    ENSURE(ok());
    return *std::get_if<0>(&state_);
  }
  T* operator->() { return &value(); }
  T& operator*() & { return value(); }

  Error& error() & {
    ENSURE(!ok());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    ENSURE(!ok());
    return std::move(*std::get_if<1>(&state_));
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using Value = void;

  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}  // NOLINT: implicit by design

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  void value() const { ENSURE(ok_); }

  Error& error() & {
    ENSURE(!ok_);
    return error_;
  }
  Error&& error() && {
    ENSURE(!ok_);
    return std::move(error_);
  }

 private:
  Error error_;
  bool ok_ = true;
};

}  // namespace plumb

// The value of a Result expression, or returns its error from the enclosing function.
// Use it as a statement or an initialiser: `auto fd = TRY(open_file(path));` Not between the braces
// of an aggregate: its earlier members would not be destroyed (g++ 12).
#define TRY(expression) TRY_EXPAND(expression, __COUNTER__)
#define TRY_EXPAND(expression, number) TRY_NAMED(expression, number)
// A name of its own for each use, so that a TRY inside another's argument shadows nothing.
#define TRY_NAMED(expression, number) TRY_WITH(expression, try_result_##number)
#define TRY_WITH(expression, name)                  \
  __extension__({                                   \
    auto&& name = (expression);                     \
    if (!name.ok()) return std::move(name).error(); \
    std::move(name).value();                        \
  })
