// Copies a device over another, for arrays that do it no better themselves.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "blockdev/cow_file.h"

namespace plumb {

// Gives the first `size_bytes` of `to` those of `from`, durably; reads both, and writes only where
// they differ. Repeated after it was cut short, it goes on. Blocks. Errors: those of the two.
Result<> copy_differences(CowFile& from, CowFile& to, uint64_t size_bytes);

}  // namespace plumb
