#include "snapshot/overlay_store.h"

#include <catch2/catch.hpp>

namespace plumb {
TEST_CASE("overlay store: no folder, no snapshots") {
  CHECK(OverlayStore("/nowhere").chain("/srv/a.img").value().empty());
}
}  // namespace plumb
