// PERSISTENT RESERVE commands as a guest would build them, for tests.
#pragma once

#include <initializer_list>

#include "base/endian.h"
#include "rdm/reservation_protocol.h"

namespace plumb {

using PrCdb = std::array<std::byte, kPrCdbBytes>;

inline std::vector<std::byte> to_bytes(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

inline PrCdb pr_out_cdb(int action, int scope_and_type = 0, uint32_t list_bytes = 24) {
  PrCdb cdb{};
  cdb[0] = std::byte{kPersistentReserveOut};
  cdb[1] = static_cast<std::byte>(action);
  cdb[2] = static_cast<std::byte>(scope_and_type);
  store_be(cdb.data() + 5, list_bytes);
  return cdb;
}

inline PrCdb pr_in_cdb(int action, uint16_t allocation_bytes = 1024) {
  PrCdb cdb{};
  cdb[0] = std::byte{kPersistentReserveIn};
  cdb[1] = static_cast<std::byte>(action);
  store_be(cdb.data() + 7, allocation_bytes);
  return cdb;
}

inline std::vector<std::byte> pr_list(uint64_t key, uint64_t service_action_key = 0, int flags = 0,
                                      size_t size = 24) {
  std::vector<std::byte> list(size);
  store_be(list.data(), key);
  store_be(list.data() + 8, service_action_key);
  list[20] = static_cast<std::byte>(flags);
  return list;
}

inline ReservationRequest pr_out(PrOutAction action, int type, uint64_t key,
                                 uint64_t service_action_key = 0, int flags = 0) {
  return {pr_out_cdb(static_cast<int>(action), type), pr_list(key, service_action_key, flags)};
}

inline ReservationRequest pr_in(PrInAction action, uint16_t allocation_bytes = 1024) {
  return {pr_in_cdb(static_cast<int>(action), allocation_bytes), {}};
}

}  // namespace plumb
