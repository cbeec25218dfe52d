// For servers that take only what an interface has: the names in a request, to be held against
// those that it knows.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/fakes/https_server.h"

namespace plumb {

// Of the members of an object that have a value, dotted: "space.size".
inline std::set<std::string> member_names(const nlohmann::json& object,
                                          const std::string& prefix = "") {
  std::set<std::string> names;
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) {
      names.merge(member_names(value, prefix + name + "."));
    } else {
      names.insert(prefix + name);
    }
  }
  return names;
}

inline std::set<std::string> query_names(const ServedRequest& request) {
  std::set<std::string> names;
  for (const auto& [name, value] : request.query) names.insert(name);
  return names;
}

// "" when all are known.
inline std::string first_unknown(const std::set<std::string>& asked,
                                 const std::set<std::string>& known) {
  for (const std::string& one : asked) {
    if (!known.contains(one)) return one;
  }
  return "";
}

}  // namespace plumb
