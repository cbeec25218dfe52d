#include "base/result.h"

#include <cstring>

namespace plumb {

Error os_error_text(int os_errno, std::string message) {
  // strerrordesc_np is thread safe and static, unlike strerror.
  const char* reason = strerrordesc_np(os_errno);
  message += ": ";
  message += reason != nullptr ? reason : fmt::format("error {}", os_errno);
  return Error{ErrorKind::kFailed, os_errno, std::move(message)};
}

}  // namespace plumb
