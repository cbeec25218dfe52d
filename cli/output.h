// What commands print: tables for people, JSON for programs. Text from devices, guests and file
// names is made printable() first.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // To standard output; columns as wide as their widest cell.
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// One line on standard output; bytes that are no UTF-8 are replaced.
void print_json(const nlohmann::json& json);

}  // namespace plumb
