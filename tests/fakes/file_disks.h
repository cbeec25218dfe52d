// Three disks of a guest that are image files, for the suite of arrays.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/conformance/array_suite.h"

namespace plumb {

inline constexpr uint64_t kFileDiskBytes = 4U << 20U;

inline std::vector<conformance::TestDisk> make_file_disks(const std::string& folder) {
  std::vector<conformance::TestDisk> disks;
  std::filesystem::create_directory(folder + "/db1");
  for (const char* image : {"root.img", "db1/data.img", "db1/log.img"}) {
    const std::string path = folder + "/" + image;
    std::ofstream(path).close();
    std::filesystem::resize_file(path, kFileDiskBytes);
    disks.push_back({{.image = path, .size_bytes = kFileDiskBytes}, path});
  }
  return disks;
}

}  // namespace plumb
