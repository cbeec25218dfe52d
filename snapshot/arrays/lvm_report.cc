#include "snapshot/arrays/lvm_report.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using nlohmann::json;

// Every value of a report is a text; "" where there is nothing to say.
Result<std::string> text_of(const json& volume, const char* column) {
  const auto found = volume.find(column);
  if (found != volume.end() && found->is_string()) return found->get<std::string>();
  return failed("lvs does not tell {}", column);
}

template <typename T>
Result<T> number_of(const json& volume, const char* column) {
  const std::string text = TRY(text_of(volume, column));
  T number = 0;
  if (text.empty()) return number;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  if (read.ec == std::errc() && read.ptr == text.data() + text.size()) return number;
  return failed("lvs tells '{}' for {}", text, column);
}

std::vector<std::string> split_tags(const std::string& text) {
  std::vector<std::string> tags;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) tags.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return tags;
}

Result<LvmVolume> volume_in(const json& row) {
  LvmVolume volume;
  volume.name = TRY(text_of(row, "lv_name"));
  volume.pool = TRY(text_of(row, "pool_lv"));
  volume.origin = TRY(text_of(row, "origin"));
  volume.path = TRY(text_of(row, "lv_path"));
  // -1 while it is not active.
  const int major = TRY(number_of<int>(row, "lv_kernel_major"));
  const int minor = TRY(number_of<int>(row, "lv_kernel_minor"));
  if (major > 0 && minor >= 0) {
    volume.number = ::makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor));
  }
  volume.open = TRY(text_of(row, "lv_device_open")) == "open";
  volume.size_bytes = TRY(number_of<uint64_t>(row, "lv_size"));
  volume.tags = split_tags(TRY(text_of(row, "lv_tags")));
  volume.data_percent = TRY(number_of<double>(row, "data_percent"));
  volume.metadata_percent = TRY(number_of<double>(row, "metadata_percent"));
  volume.health = TRY(text_of(row, "lv_health_status"));
  volume.check_needed = TRY(text_of(row, "lv_check_needed")) == "check needed";
  return volume;
}

}  // namespace

bool LvmVolume::has_tag(std::string_view tag) const {
  return std::ranges::find(tags, tag) != tags.end();
}

std::string LvmVolume::tag_after(std::string_view beginning) const {
  for (const std::string& tag : tags) {
    if (tag.starts_with(beginning)) return tag.substr(beginning.size());
  }
  return {};
}

Result<std::vector<LvmVolume>> parse_lvs(std::string_view text) {
  const json report = json::parse(text, nullptr, false);
  if (!report.is_object() || !report.contains("report") || !report["report"].is_array()) {
    return failed("lvs does not write a report");
  }
  std::vector<LvmVolume> all;
  for (const json& part : report["report"]) {
    if (!part.is_object() || !part.contains("lv") || !part["lv"].is_array()) {
      return failed("lvs writes a report without volumes");
    }
    for (const json& row : part["lv"]) {
      if (!row.is_object()) return failed("lvs writes a volume that is none");
      all.push_back(TRY(volume_in(row)));
    }
  }
  return all;
}

}  // namespace plumb
