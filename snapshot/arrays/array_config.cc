#include "snapshot/arrays/array_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <span>

#include "base/nearest.h"
#include "base/size.h"
#include "base/toml_file.h"
#include "rdm/lun_id.h"
#include "snapshot/arrays/array_names.h"

namespace plumb {
namespace {

constexpr int64_t kMaxTimeoutSeconds = 86'400;
// With a snapshot's name it becomes a name in device-mapper, which has 127 bytes.
constexpr size_t kMaxArrayNameBytes = 32;

// Reads a value into a definition; the error is what is wrong with the value.
template <typename T>
struct Key {
  std::string_view name;
  Result<> (*set)(T& target, const toml::node& value);
  bool required = false;
};

// ---- values -------------------------------------------------------------------------------------

Result<std::string> text_of(const toml::node& value) {
  const auto* text = value.as_string();
  if (text == nullptr || text->get().empty()) return usage_error("write a text");
  if (text->get().find('\0') != std::string::npos) return usage_error("it has a NUL in it");
  return text->get();
}

Result<std::string> path_of(const toml::node& value) {
  std::string path = TRY(text_of(value));
  if (path[0] == '/') return path;
  return usage_error("'{}' is no absolute path", path);
}

Result<unsigned> milliseconds_of(const toml::node& value) {
  const auto* number = value.as_integer();
  if (number != nullptr && number->get() >= 1 && number->get() <= kMaxTimeoutSeconds) {
    return static_cast<unsigned>(number->get() * 1000);
  }
  return usage_error("write seconds from 1 to {}", kMaxTimeoutSeconds);
}

Result<std::vector<std::string>> texts_of(const toml::node& value) {
  const auto* array = value.as_array();
  if (array == nullptr) return usage_error("write a list of texts, [\"…\"]");
  std::vector<std::string> all;
  for (const toml::node& element : *array) all.push_back(TRY(text_of(element)));
  return all;
}

Result<std::map<std::string, std::string>> table_of(const toml::node& value) {
  const auto* table = value.as_table();
  if (table == nullptr) return usage_error("write a table of texts, {{ \"…\" = \"…\" }}");
  std::map<std::string, std::string> all;
  for (const auto& [name, element] : *table) {
    all[std::string(name.str())] = TRY(text_of(element));
  }
  return all;
}

Result<std::map<std::string, std::string>> luns_of(const toml::node& value) {
  std::map<std::string, std::string> luns;
  for (const auto& [wwn, volume] : TRY(table_of(value))) {
    const LunId id = TRY(LunId::parse(wwn));
    if (!luns.emplace(id.text(), volume).second) {
      return usage_error("the LUN {} is there twice", id.text());
    }
  }
  return luns;
}

Result<std::vector<std::string>> wwns_of(const toml::node& value) {
  std::vector<std::string> wwns;
  for (const std::string& text : TRY(texts_of(value))) {
    const LunId id = TRY(LunId::parse(text));
    if (std::ranges::find(wwns, id.text()) != wwns.end()) {
      return usage_error("the LUN {} is there twice", id.text());
    }
    wwns.push_back(id.text());
  }
  return wwns;
}

// A name in device-mapper, or its path. It goes into messages to the kernel.
Result<std::string> mapper_name_of(const toml::node& value) {
  std::string name = TRY(text_of(value));
  constexpr std::string_view kFolder = "/dev/mapper/";
  if (name.starts_with(kFolder)) name.erase(0, kFolder.size());
  if (!name.empty() && name.size() < 128 && name.find_first_of("/ ") == std::string::npos) {
    return name;
  }
  return usage_error("'{}' is no device of device-mapper, such as /dev/mapper/pool0", name);
}

// What an administrator calls something in an array: a part of requests, where other letters have
// meanings.
Result<std::string> array_word_of(const toml::node& value) {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:";
  std::string word = TRY(text_of(value));
  if (word.find_first_not_of(kLetters) == std::string::npos) return word;
  return usage_error("'{}' has other letters than a-z, A-Z, 0-9 and _-.:", word);
}

Result<std::vector<std::string>> array_words_of(const toml::node& value) {
  const auto* array = value.as_array();
  if (array == nullptr || array->empty()) return usage_error("write a list of texts, [\"…\"]");
  std::vector<std::string> all;
  for (const toml::node& element : *array) all.push_back(TRY(array_word_of(element)));
  return all;
}

Result<ArrayProvider::Abilities> abilities_of(const toml::node& value) {
  constexpr std::string_view kKnown[] = {"group", "instant", "provisions", "writable-snapshots"};
  ArrayProvider::Abilities abilities{.instant = false};
  for (const std::string& word : TRY(texts_of(value))) {
    if (std::ranges::find(kKnown, word) == std::end(kKnown)) {
      return usage_error("unknown ability '{}'{}", word, nearest_hint(word, kKnown));
    }
    abilities.group = abilities.group || word == "group";
    abilities.instant = abilities.instant || word == "instant";
    abilities.provisions = abilities.provisions || word == "provisions";
    abilities.writable_snapshots = abilities.writable_snapshots || word == "writable-snapshots";
  }
  return abilities;
}

// ---- keys ---------------------------------------------------------------------------------------

template <auto kMember, auto kRead, typename T>
Result<> set(T& target, const toml::node& value) {
  target.*kMember = TRY(kRead(value));
  return {};
}

// "VG/POOL"; both become arguments of lvm(8).
Result<> set_lvm_pool(LvmThinConfig& target, const toml::node& value) {
  const std::string text = TRY(text_of(value));
  const size_t slash = text.find('/');
  const auto is_name = [](std::string_view name) {
    constexpr std::string_view kLetters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-";
    return !name.empty() && name[0] != '-' &&
           name.find_first_not_of(kLetters) == std::string_view::npos;
  };
  if (slash == std::string::npos || !is_name(text.substr(0, slash)) ||
      !is_name(text.substr(slash + 1))) {
    return usage_error("'{}' is no thin pool of LVM, such as vg0/pool", text);
  }
  target.volume_group = text.substr(0, slash);
  target.pool = text.substr(slash + 1);
  return {};
}

// "HOST", "HOST:PORT" or "[ADDRESS]:PORT".
template <typename T>
Result<> set_address(T& target, const toml::node& value) {
  std::string host = TRY(text_of(value));
  const size_t colon = host.rfind(':');
  const bool brackets = host.starts_with('[');
  const bool port =
      colon != std::string::npos && (brackets ? host[colon - 1] == ']' : host.find(':') == colon);
  if (port) {
    const std::string digits = host.substr(colon + 1);
    uint16_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size() || number == 0) {
      return usage_error("'{}' is no port", digits);
    }
    target.port = number;
    host.resize(colon);
  }
  if (brackets && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:%";
  if (host.empty() || host[0] == '-' || host.find_first_not_of(kLetters) != std::string::npos) {
    return usage_error("'{}' is no address; write HOST or HOST:PORT", host);
  }
  target.address = host;
  return {};
}

// A user's name goes into headers, where it ends at a colon.
Result<std::string> user_of(const toml::node& value) {
  std::string user = TRY(text_of(value));
  const bool good =
      std::ranges::none_of(user, [](unsigned char c) { return c <= ' ' || c == ':'; });
  if (good && user[0] != '-') return user;
  return usage_error("'{}' is no user's name", user);
}

Result<bool> yes_or_no(const toml::node& value) {
  const auto* flag = value.as_boolean();
  if (flag != nullptr) return flag->get();
  return usage_error("write true or false");
}

template <unsigned kMost>
Result<unsigned> number_of(const toml::node& value) {
  const auto* number = value.as_integer();
  if (number != nullptr && number->get() >= 0 && number->get() <= kMost) {
    return static_cast<unsigned>(number->get());
  }
  return usage_error("write a number from 0 to {}", kMost);
}

// "PORT,NUMBER": "CL1-A,3".
Result<std::vector<HitachiHostGroup>> host_groups_of(const toml::node& value) {
  std::vector<HitachiHostGroup> all;
  for (const std::string& text : TRY(texts_of(value))) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string port = text.substr(0, comma);
    const std::string digits = text.substr(std::min(comma + 1, text.size()));
    HitachiHostGroup group{.port = port};
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, group.number);
    constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    const bool named = !port.empty() && port.find_first_not_of(kLetters) == std::string::npos;
    if (!named || error != std::errc() || stop != end) {
      return usage_error("'{}' is no host group; write PORT,NUMBER, such as CL1-A,3", text);
    }
    all.push_back(std::move(group));
  }
  if (all.empty()) return usage_error("name one at least");
  return all;
}

using Reflink = ReflinkConfig;
constexpr Key<Reflink> kReflinkKeys[] = {{"folder", set<&Reflink::folder, path_of, Reflink>, true}};

using Command = CommandConfig;
constexpr Key<Command> kCommandKeys[] = {
    {"program", set<&Command::program, path_of, Command>, true},
    {"abilities", set<&Command::abilities, abilities_of, Command>},
    {"timeout", set<&Command::timeout_ms, milliseconds_of, Command>},
    {"take-timeout", set<&Command::take_timeout_ms, milliseconds_of, Command>},
    {"settings", set<&Command::settings, table_of, Command>},
};

using DmThin = DmThinConfig;
constexpr Key<DmThin> kDmThinKeys[] = {
    {"pool", set<&DmThin::pool, mapper_name_of, DmThin>, true},
    {"luns", set<&DmThin::luns, luns_of, DmThin>},
    {"state", set<&DmThin::state_path, path_of, DmThin>},
};

using LvmThin = LvmThinConfig;
constexpr Key<LvmThin> kLvmThinKeys[] = {
    {"pool", set_lvm_pool, true},
    {"luns", set<&LvmThin::luns, luns_of, LvmThin>},
};

using Xcopy = XcopyConfig;
constexpr Key<Xcopy> kXcopyKeys[] = {
    {"luns", set<&Xcopy::luns, wwns_of, Xcopy>, true},
    {"spares", set<&Xcopy::spares, wwns_of, Xcopy>, true},
    {"state", set<&Xcopy::state_path, path_of, Xcopy>},
};

using Ontap = OntapConfig;
constexpr Key<Ontap> kOntapKeys[] = {
    {"address", set_address<Ontap>, true},
    {"ca-file", set<&Ontap::ca_file, path_of, Ontap>},
    {"user", set<&Ontap::user, user_of, Ontap>, true},
    {"password-file", set<&Ontap::password_file, path_of, Ontap>, true},
    {"svm", set<&Ontap::svm, array_word_of, Ontap>, true},
    {"volumes", set<&Ontap::volumes, array_words_of, Ontap>, true},
    {"igroup", set<&Ontap::igroup, array_word_of, Ontap>, true},
    {"timeout", set<&Ontap::timeout_ms, milliseconds_of, Ontap>},
    {"take-timeout", set<&Ontap::take_timeout_ms, milliseconds_of, Ontap>},
};

using Hitachi = HitachiConfig;
constexpr unsigned kMostPools = 1023;
Result<bool> is_shadow_image(const toml::node& value) {
  const std::string word = TRY(text_of(value));
  constexpr std::string_view kShadowImage = "shadow-image";
  if (word == kShadowImage || word == "thin-image") return word == kShadowImage;
  return usage_error("unknown copy '{}'; write thin-image or shadow-image", word);
}
constexpr Key<Hitachi> kHitachiKeys[] = {
    {"address", set_address<Hitachi>, true},
    {"ca-file", set<&Hitachi::ca_file, path_of, Hitachi>},
    {"storage-id", set<&Hitachi::storage_id, array_word_of, Hitachi>},
    {"user", set<&Hitachi::user, user_of, Hitachi>, true},
    {"password-file", set<&Hitachi::password_file, path_of, Hitachi>, true},
    {"snapshot-pool", set<&Hitachi::snapshot_pool, number_of<kMostPools>, Hitachi>},
    {"copy", set<&Hitachi::shadow_image, is_shadow_image, Hitachi>},
    {"keep-mirrors", set<&Hitachi::keep_mirrors, yes_or_no, Hitachi>},
    {"volume-pool", set<&Hitachi::volume_pool, number_of<kMostPools>, Hitachi>, true},
    {"host-groups", set<&Hitachi::host_groups, host_groups_of, Hitachi>, true},
    {"state", set<&Hitachi::state_path, path_of, Hitachi>},
    {"timeout", set<&Hitachi::timeout_ms, milliseconds_of, Hitachi>},
    {"take-timeout", set<&Hitachi::take_timeout_ms, milliseconds_of, Hitachi>},
    {"copy-timeout", set<&Hitachi::copy_timeout_ms, milliseconds_of, Hitachi>},
};

// What goes into a command line of the group: no blanks, no quotes.
using EqualLogic = EqualLogicConfig;
Result<> set_group_luns(EqualLogic& target, const toml::node& value) {
  target.luns = TRY(luns_of(value));
  for (const auto& [wwn, volume] : target.luns) {
    const toml::value<std::string> name(volume);
    TRY(array_word_of(name));
  }
  return {};
}
constexpr Key<EqualLogic> kEqualLogicKeys[] = {
    {"address", set_address<EqualLogic>, true},
    {"user", set<&EqualLogic::user, user_of, EqualLogic>, true},
    {"key-file", set<&EqualLogic::key_file, path_of, EqualLogic>, true},
    {"known-hosts", set<&EqualLogic::known_hosts, path_of, EqualLogic>},
    {"group", set<&EqualLogic::group, array_word_of, EqualLogic>, true},
    {"pool", set<&EqualLogic::pool, array_word_of, EqualLogic>},
    {"initiator", set<&EqualLogic::initiator, array_word_of, EqualLogic>, true},
    {"luns", set_group_luns, true},
    {"state", set<&EqualLogic::state_path, path_of, EqualLogic>},
    {"timeout", set<&EqualLogic::timeout_ms, milliseconds_of, EqualLogic>},
    {"take-timeout", set<&EqualLogic::take_timeout_ms, milliseconds_of, EqualLogic>},
};

// What Ceph calls something: a part of specifications, where '/' and '@' have meanings.
Result<std::string> ceph_name_of(const toml::node& value) {
  std::string name = TRY(text_of(value));
  const bool good = std::ranges::none_of(
      name, [](unsigned char c) { return c < ' ' || c == 127 || c == '/' || c == '@'; });
  if (good) return name;
  return usage_error("'{}' is no name in Ceph; it has no '/' and no '@'", name);
}

using Rbd = RbdConfig;
Result<> set_image_luns(Rbd& target, const toml::node& value) {
  target.luns = TRY(luns_of(value));
  for (const auto& [wwn, image] : target.luns) {
    const toml::value<std::string> name(image);
    TRY(ceph_name_of(name));
  }
  return {};
}
constexpr Key<Rbd> kRbdKeys[] = {
    {"pool", set<&Rbd::pool, ceph_name_of, Rbd>, true},
    {"namespace", set<&Rbd::pool_namespace, ceph_name_of, Rbd>},
    {"cluster", set<&Rbd::cluster, array_word_of, Rbd>},
    {"conf", set<&Rbd::conf, path_of, Rbd>},
    {"id", set<&Rbd::id, array_word_of, Rbd>},
    {"keyring", set<&Rbd::keyring, path_of, Rbd>},
    {"luns", set_image_luns},
    {"timeout", set<&Rbd::timeout_ms, milliseconds_of, Rbd>},
    {"take-timeout", set<&Rbd::take_timeout_ms, milliseconds_of, Rbd>},
    {"copy-timeout", set<&Rbd::copy_timeout_ms, milliseconds_of, Rbd>},
};

// Of a definition with a state file: where it is unless something else was said.
template <typename T>
void set_state_path(T& config, const std::string& folder) {
  if constexpr (requires { config.state_path; }) {
    if (config.state_path.empty()) config.state_path = folder + "/" + config.name + ".json";
  }
}

// What no key alone can say.
template <typename T>
Result<> check(const T&) {
  return {};
}

Result<> check(const XcopyConfig& config) {
  for (const std::string& spare : config.spares) {
    if (std::ranges::find(config.luns, spare) == config.luns.end()) continue;
    return usage_error("the LUN {} is to be copied, and a spare to be overwritten", spare);
  }
  return {};
}

Result<> check(const HitachiConfig& config) {
  if (config.shadow_image || config.snapshot_pool) return {};
  return usage_error("the key 'snapshot-pool' is missing, where Thin Image keeps differences");
}

template <typename T, size_t N>
Result<ArrayDefinition> read_definition(const Key<T> (&keys)[N], const std::string& name,
                                        const toml::table& table, const std::string& state_folder) {
  std::vector<std::string_view> known = {"name", "provider"};
  for (const Key<T>& key : keys) known.push_back(key.name);
  T config;
  config.name = name;
  for (const auto& [word, value] : table) {
    if (word.str() == "name" || word.str() == "provider") continue;
    const auto key = std::ranges::find(keys, word.str(), &Key<T>::name);
    if (key == std::end(keys)) {
      return usage_error("unknown key '{}'{}", word.str(), nearest_hint(word.str(), known));
    }
    Result<> read = key->set(config, value);
    if (!read) return usage_error("{}: {}", word.str(), read.error().message);
  }
  for (const Key<T>& key : keys) {
    if (key.required && !table.contains(key.name)) {
      return usage_error("the key '{}' is missing", key.name);
    }
  }
  TRY(check(config));
  set_state_path(config, state_folder);
  return ArrayDefinition(std::move(config));
}

struct Provider {
  std::string_view name;
  Result<ArrayDefinition> (*read)(const std::string& name, const toml::table& table,
                                  const std::string& state_folder);
};

template <const auto& kKeys>
Result<ArrayDefinition> read_with(const std::string& name, const toml::table& table,
                                  const std::string& state_folder) {
  return read_definition(kKeys, name, table, state_folder);
}

constexpr Provider kProviders[] = {
    {"reflink", read_with<kReflinkKeys>}, {"command", read_with<kCommandKeys>},
    {"dm-thin", read_with<kDmThinKeys>},  {"lvm-thin", read_with<kLvmThinKeys>},
    {"xcopy", read_with<kXcopyKeys>},     {"ontap", read_with<kOntapKeys>},
    {"hitachi", read_with<kHitachiKeys>}, {"equallogic", read_with<kEqualLogicKeys>},
    {"rbd", read_with<kRbdKeys>},
};

Result<ArrayDefinition> read_array(const toml::table& table, const std::string& state_folder) {
  const auto* name = table.get("name");
  if (name == nullptr) return usage_error("it has no name");
  const std::string array = TRY(text_of(*name));
  if (!is_array_name(array) || array.size() > kMaxArrayNameBytes) {
    return usage_error("'{}' is no name for an array; use a-z, 0-9 and '-', {} at most", array,
                       kMaxArrayNameBytes);
  }
  const auto* provider = table.get("provider");
  std::vector<std::string_view> known;
  for (const Provider& one : kProviders) known.push_back(one.name);
  if (provider == nullptr)
    return usage_error("it has no provider; write one of {}", fmt::join(known, ", "));
  const std::string word = TRY(text_of(*provider));
  const auto found = std::ranges::find(kProviders, word, &Provider::name);
  if (found != std::end(kProviders)) return found->read(array, table, state_folder);
  return usage_error("unknown provider '{}'{}", word, nearest_hint(word, known));
}

}  // namespace

const std::string& array_name(const ArrayDefinition& definition) {
  return std::visit([](const auto& config) -> const std::string& { return config.name; },
                    definition);
}

Result<std::vector<ArrayDefinition>> read_arrays(std::string_view text, std::string_view file_name,
                                                 const std::string& state_folder) {
  const toml::table parsed = TRY(parse_toml(text, file_name));
  const toml::node* node = parsed.get("array");
  std::vector<ArrayDefinition> all;
  if (node == nullptr) return all;
  const auto* tables = node->as_array();
  if (tables == nullptr || !tables->is_array_of_tables()) {
    return usage_error("{}: write an array as [[array]] with its keys below", file_name);
  }
  std::set<std::string> names;
  for (const toml::node& table : *tables) {
    const std::string where =
        fmt::format("{}: line {}: array: ", file_name, table.source().begin.line);
    Result<ArrayDefinition> read = read_array(*table.as_table(), state_folder);
    if (!read) return usage_error("{}{}", where, read.error().message);
    const std::string& name = array_name(read.value());
    if (!names.insert(name).second) {
      return usage_error("{}two arrays have the name '{}'; give each its own", where, name);
    }
    all.push_back(std::move(read).value());
  }
  return all;
}

Result<uint64_t> read_overlay_limit(std::string_view text, std::string_view file_name) {
  const toml::table parsed = TRY(parse_toml(text, file_name));
  const toml::node* node = parsed.get("copy-before-write");
  if (node == nullptr) return uint64_t{0};
  const auto wrong = [&](const std::string& what) {
    return usage_error("{}: line {}: copy-before-write: {}", file_name, node->source().begin.line,
                       what);
  };
  const toml::table* table = node->as_table();
  if (table == nullptr) return wrong("write it as a table, [copy-before-write]");
  for (const auto& [key, value] : *table) {
    if (key != "limit") return wrong(fmt::format("it has no key '{}', but limit", key.str()));
  }
  const toml::node* limit = table->get("limit");
  if (limit == nullptr) return uint64_t{0};
  const auto* text_value = limit->as_string();
  uint64_t bytes = 0;
  if (text_value != nullptr) {
    if (Result<uint64_t> size = parse_size(text_value->get())) bytes = *size;
  }
  if (bytes == 0) return wrong("write the limit as a size: limit = \"20G\"");
  return bytes;
}

Result<std::unique_ptr<ArrayProvider>> open_array(const ArrayDefinition& definition) {
  struct Open {
    Result<std::unique_ptr<ArrayProvider>> operator()(const ReflinkConfig& config) const {
      return open_reflink_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const CommandConfig& config) const {
      return make_command_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const DmThinConfig& config) const {
      return make_dm_thin_array(config, std::make_unique<KernelDeviceMapper>());
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const LvmThinConfig& config) const {
      return make_lvm_thin_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const XcopyConfig& config) const {
      return make_xcopy_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const OntapConfig& config) const {
      return open_ontap_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const HitachiConfig& config) const {
      return open_hitachi_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const EqualLogicConfig& config) const {
      return make_equallogic_array(config);
    }
    Result<std::unique_ptr<ArrayProvider>> operator()(const RbdConfig& config) const {
      return make_rbd_array(config);
    }
  };
  return std::visit(Open(), definition);
}

Result<std::vector<std::unique_ptr<ArrayProvider>>> open_arrays(
    const std::vector<ArrayDefinition>& definitions) {
  std::vector<std::unique_ptr<ArrayProvider>> all;
  all.reserve(definitions.size());
  for (const ArrayDefinition& definition : definitions) all.push_back(TRY(open_array(definition)));
  return all;
}

}  // namespace plumb
