#include "snapshot/array_set.h"

#include <algorithm>
#include <optional>

namespace plumb {
namespace {

constexpr std::string_view kReflink = "reflink:";

// `listed`: all whose names begin with `name`.
template <typename T>
Result<> remove_named(ArrayProvider& array, Result<std::vector<T>> listed,
                      const std::string& name) {
  if (!listed) return array_error(std::move(listed).error());
  for (const T& one : *listed) {
    if (one.name != name) continue;
    Result<> removed = array.remove(one.id);
    if (!removed) return array_error(std::move(removed).error());
  }
  return {};
}

}  // namespace

Error array_error(Error error) {
  if (error.kind == ErrorKind::kFailed) error.kind = ErrorKind::kArray;
  return error;
}

ArrayProvider* ArraySet::opened(const std::string& name) const {
  const auto found =
      std::ranges::find_if(arrays_, [&](const auto& array) { return array->name() == name; });
  return found == arrays_.end() ? nullptr : found->get();
}

// Those of plumb.toml first. One that does not answer is in nobody's way, unless no other has the
// disk: then it may be the one.
Result<ArraySet::Found> ArraySet::find(const DiskMedium& medium) {
  std::optional<Error> silent;
  const auto note = [&silent](Error error) {
    if (!silent) silent = array_error(std::move(error));
  };
  for (const ArrayDefinition& definition : definitions_) {
    if (Result<ArrayProvider*> array = get(array_name(definition)); !array) note(array.error());
  }
  for (const auto& array : arrays_) {
    Result<std::optional<ArrayVolume>> volume = array->find(medium);
    if (!volume) {
      note(volume.error());
    } else if (*volume && array->abilities().instant) {
      return Found{array.get(), std::move(**volume)};
    } else if (*volume) {
      // Its guest would be held for as long as the copy takes.
      return leave_to_vm(medium, failed("the disk is in array {}, which cannot copy it at one "
                                        "instant; give the VM disks of an array that can",
                                        array->name()));
    }
  }
  if (silent) return std::move(*silent);
  if (medium.image.empty()) {
    return leave_to_vm(medium, failed("LUN {} is of no array that plumb.toml names; add its array "
                                      "(docs/arrays.md)",
                                      medium.wwn));
  }
  const std::string folder = medium.image.substr(0, medium.image.rfind('/'));
  ArrayProvider* reflinks = TRY(get(std::string(kReflink) + (folder.empty() ? "/" : folder)));
  if (Result<> able = reflinks->health(); !able) return leave_to_vm(medium, able.error());
  Result<std::optional<ArrayVolume>> volume = reflinks->find(medium);
  if (!volume) return array_error(std::move(volume).error());
  if (*volume) return Found{reflinks, std::move(**volume)};
  return leave_to_vm(medium,
                     failed("image {} cannot be copied in its own file system", medium.image));
}

// `why`: no array can do it.
Result<ArraySet::Found> ArraySet::leave_to_vm(const DiskMedium& medium, Error why) const {
  if (!overlays_) return array_error(std::move(why));
  std::optional<ArrayVolume> volume = TRY(overlays_->find(medium));
  if (!volume) return array_error(std::move(why));
  return Found{overlays_.get(), std::move(*volume)};
}

Result<ArrayProvider*> ArraySet::get(const std::string& name) {
  if (overlays_ && name == overlays_->name()) return overlays_.get();
  if (ArrayProvider* array = opened(name)) return array;
  const auto defined = std::ranges::find(definitions_, name, array_name);
  ArrayDefinition definition;
  if (defined != definitions_.end()) {
    definition = *defined;
  } else if (name.starts_with(kReflink)) {
    definition = ReflinkConfig{.name = name, .folder = name.substr(kReflink.size())};
  } else {
    return array_error(failed("array '{}' is not in plumb.toml; put it back there", name));
  }
  Result<std::unique_ptr<ArrayProvider>> array = open_array(definition);
  if (!array) return array_error(std::move(array).error());
  arrays_.push_back(std::move(array).value());
  return arrays_.back().get();
}

Result<> ArraySet::remove_snapshot(const std::string& array, const std::string& name) {
  ArrayProvider* provider = TRY(get(array));
  return remove_named(*provider, provider->list_snapshots(name), name);
}

Result<> ArraySet::remove_volume(const std::string& array, const std::string& name) {
  ArrayProvider* provider = TRY(get(array));
  return remove_named(*provider, provider->list_volumes(name), name);
}

}  // namespace plumb
