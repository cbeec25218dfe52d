// The keys of TLS-PSK clients: a file of lines "user:hexkey", as GnuTLS' psktool writes it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::nbd {

struct PskKey {
  std::string user;
  std::string key;  // bytes
};

// Errors, which show no key: a line that is none, a name that comes twice, a key of less than 16
// bytes or more than 64, no key at all. Empty lines and those that begin with '#' are left out.
// Pure.
Result<std::vector<PskKey>> parse_psk_keys(std::string_view text);

// Of the file's text; the file belongs to this user, and nobody else may read it.
Result<std::vector<PskKey>> read_psk_keys(const std::string& path);

}  // namespace plumb::nbd
