// TLS with pre-shared keys (RFC 4279, RFC 8446 section 2.2) for NBD clients: who knows a user's key
// is let in, and knows that this is the server. No certificates. TLS 1.2 and 1.3, with a key
// exchange that keeps what was said secret when the key is lost later.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "blockdev/nbd/psk_keys.h"
#include "blockdev/nbd/transport.h"

namespace plumb::nbd {

// Before the process gives up its way to files: OpenSSL reads its configuration here. The process
// ignores SIGPIPE. Errors: OpenSSL offers none of what this needs.
Result<std::unique_ptr<TlsAcceptor>> make_psk_acceptor(std::vector<PskKey> keys);

}  // namespace plumb::nbd
