// Text from devices, guests and peers, before it is shown or used.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb {

// Control bytes as \xHH, so that they cannot steer a terminal or break a line of the log.
std::string printable(std::string_view text);

// RFC 4648, section 4, with its padding; an error for anything else.
Result<std::string> decode_base64(std::string_view text);

}  // namespace plumb
