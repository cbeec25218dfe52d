// CRC-32C (Castagnoli, RFC 3720 appendix B.4): finds damage and edits by hand, not forgery.
#pragma once

#include <cstdint>
#include <string_view>

namespace plumb {

uint32_t crc32c(std::string_view bytes);

}  // namespace plumb
