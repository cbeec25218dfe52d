#include "rdm/mapping_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <map>

#include "base/crc32c.h"
#include "base/file.h"
#include "base/uuid.h"
#include "blockdev/file_lock.h"

namespace plumb {
namespace {

constexpr std::string_view kMagic = "plumb-rdm ";
constexpr std::string_view kVersion = "1";
constexpr std::string_view kChecksumKey = "crc32c = ";
constexpr size_t kChecksumLineBytes = kChecksumKey.size() + 8 + 1;
constexpr size_t kMaxFactBytes = 256;  // more than INQUIRY, VPD page 0x80 or NVMe Identify tell
constexpr uint32_t kMinBlockSize = 512;
constexpr uint32_t kMaxBlockSize = 65536;
constexpr char kRemedy[] = "make it again with `plumb rdm create`";

// In the order in which they are printed.
struct Key {
  std::string_view name;
  bool required;
};
constexpr Key kKeys[] = {
    {"uuid", true},       {"mode", true},
    {"wwid", true},       {"serial", false},
    {"vendor", false},    {"model", false},
    {"size-bytes", true}, {"logical-block-size", true},
    {"sharing", true},    {"allow-weak-identity", true},
};

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
}

// Text of the file for a message: short, and nothing that steers a terminal.
std::string_view shown(std::string_view text) {
  return is_printable(text) ? text.substr(0, 80) : std::string_view("(unprintable)");
}

// What a LUN tells about itself, as it is recorded.
std::string plain(std::string_view text) {
  std::string out(text.substr(0, kMaxFactBytes));
  for (char& c : out) {
    if (!is_printable({&c, 1})) c = '?';
  }
  const size_t first = out.find_first_not_of(' ');
  if (first == std::string::npos) return "";
  return out.substr(first, out.find_last_not_of(' ') - first + 1);
}

// Lower case, so that one mapping has one text.
bool is_canonical_uuid(std::string_view text) {
  const Result<Uuid> uuid = Uuid::parse(text);
  return uuid && uuid.value().text() == text;
}

std::string checksum_line(std::string_view before) {
  return fmt::format("{}{:08x}\n", kChecksumKey, crc32c(before));
}

// The lines between the first and the checksum, once these have been found right.
Result<std::string_view> check_frame(std::string_view text, const std::string& path) {
  if (text.size() > kMaxMappingBytes) {
    return failed("{} is longer than the {} bytes of a mapping file; name the right file", path,
                  kMaxMappingBytes);
  }
  if (text.find('\0') != std::string_view::npos) {
    return failed("{} contains NUL bytes and is damaged; {}", path, kRemedy);
  }
  const size_t first_end = text.find('\n');
  const std::string_view first = text.substr(0, first_end);
  if (!first.starts_with(kMagic)) {
    return failed(
        "{} is not a mapping file, which begins with '{}{}'; make one with `plumb rdm create`",
        path, kMagic, kVersion);
  }
  const std::string_view version = first.substr(kMagic.size());
  if (version != kVersion) {
    return failed(
        "mapping {} has the format version '{}' and this plumb reads {}; use the newer "
        "one that made it, or {}",
        path, shown(version), kVersion, kRemedy);
  }
  const size_t body_begin = first_end == std::string_view::npos ? text.size() : first_end + 1;
  const size_t body_end = text.size() - std::min(text.size(), kChecksumLineBytes);
  const std::string_view last = text.substr(body_end);
  if (body_end < body_begin || !last.starts_with(kChecksumKey) || last.back() != '\n' ||
      text[body_end - 1] != '\n') {
    return failed("mapping {} does not end with its checksum, so a part is missing; {}", path,
                  kRemedy);
  }
  if (last != checksum_line(text.substr(0, body_end))) {
    return failed("mapping {} was changed or damaged: its checksum is wrong; {}", path, kRemedy);
  }
  return text.substr(body_begin, body_end - body_begin);
}

using Values = std::map<std::string_view, std::string_view>;

Result<Values> read_lines(std::string_view body, const std::string& path) {
  Values values;
  while (!body.empty()) {
    const size_t end = body.find('\n');
    const std::string_view line = body.substr(0, end);
    body.remove_prefix(end + 1);
    const size_t equals = line.find(" = ");
    if (equals == std::string_view::npos) {
      return failed("mapping {}: the line '{}' is not of the form 'key = value'; {}", path,
                    shown(line), kRemedy);
    }
    const std::string_view name = line.substr(0, equals);
    if (std::none_of(std::begin(kKeys), std::end(kKeys),
                     [name](const Key& key) { return key.name == name; })) {
      return failed("mapping {} has the key '{}', which this plumb does not know; {}", path,
                    shown(name), kRemedy);
    }
    if (!values.emplace(name, line.substr(equals + 3)).second) {
      return failed("mapping {} has the key '{}' twice; {}", path, name, kRemedy);
    }
  }
  for (const Key& key : kKeys) {
    if (!key.required || values.contains(key.name)) continue;
    return failed("mapping {} lacks the key '{}'; {}", path, key.name, kRemedy);
  }
  return values;
}

// Takes the values of a file's keys, each in the one form it may have.
class ValueReader {
 public:
  ValueReader(const Values& values, const std::string& path) : values_(values), path_(path) {}

  Error bad(std::string_view name, const char* form) const {
    return failed("mapping {}: {} '{}' is not {}; {}", path_, name, shown(text(name)), form,
                  kRemedy);
  }

  std::string_view text(std::string_view name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::string_view() : found->second;
  }

  Result<std::string> fact(std::string_view name) const {
    const std::string_view value = text(name);
    if (values_.contains(name) && (value.empty() || plain(value) != value)) {
      return bad(name, "a printable text");
    }
    return std::string(value);
  }

  template <typename T>
  Result<T> number(std::string_view name) const {
    const std::string_view value = text(name);
    T number = 0;
    const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (status != std::errc() || end != value.data() + value.size()) {
      return bad(name, "a number that can be");
    }
    return number;
  }

  // True for the second word.
  Result<bool> choice(std::string_view name, std::string_view no, std::string_view yes,
                      const char* form) const {
    if (text(name) != no && text(name) != yes) return bad(name, form);
    return text(name) == yes;
  }

 private:
  const Values& values_;
  const std::string& path_;
};

Result<MappingFile> read_values(const Values& values, const std::string& path) {
  const ValueReader reader(values, path);
  if (!is_canonical_uuid(reader.text("uuid"))) return reader.bad("uuid", "a UUID");
  Result<MappingMode> mode = parse_mapping_mode(reader.text("mode"));
  if (!mode) return reader.bad("mode", "virtual or physical");
  Result<LunId> wwid = LunId::parse(reader.text("wwid"));
  if (!wwid) return reader.bad("wwid", "the identity of a LUN");
  MappingFile mapping{.uuid = std::string(reader.text("uuid")),
                      .mode = mode.value(),
                      .wwid = std::move(wwid).value()};
  mapping.serial = TRY(reader.fact("serial"));
  mapping.vendor = TRY(reader.fact("vendor"));
  mapping.model = TRY(reader.fact("model"));
  mapping.logical_block_size = TRY(reader.number<uint32_t>("logical-block-size"));
  if (!std::has_single_bit(mapping.logical_block_size) ||
      mapping.logical_block_size < kMinBlockSize || mapping.logical_block_size > kMaxBlockSize) {
    return reader.bad("logical-block-size", "a power of two from 512 to 65536");
  }
  mapping.size_bytes = TRY(reader.number<uint64_t>("size-bytes"));
  if (mapping.size_bytes == 0 || mapping.size_bytes % mapping.logical_block_size != 0) {
    return reader.bad("size-bytes", "a number of whole blocks");
  }
  mapping.shared = TRY(reader.choice("sharing", "exclusive", "shared", "exclusive or shared"));
  mapping.allow_weak_identity =
      TRY(reader.choice("allow-weak-identity", "false", "true", "true or false"));
  return mapping;
}

// Looked at before it is opened: opening a device or a FIFO can have effects.
Result<> check_regular(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    return os_error(errno, "mapping {} cannot be opened", path);
  }
  if (S_ISREG(status.st_mode)) return {};
  if (S_ISBLK(status.st_mode)) {
    return failed("{} is a device, not a mapping file; make one with `plumb rdm create`", path);
  }
  return failed("{} is not a regular file, as a mapping is; name the right file", path);
}

// All of the file, or enough of it to see that it is too long.
Result<std::string> content_of(int fd, const std::string& path) {
  std::string content(kMaxMappingBytes + 1, '\0');
  size_t length = 0;
  while (length < content.size()) {
    const ssize_t done =
        ::pread(fd, content.data() + length, content.size() - length, static_cast<off_t>(length));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return os_error(errno, "mapping {} cannot be read", path);
    if (done == 0) break;
    length += static_cast<size_t>(done);
  }
  content.resize(length);
  return content;
}

Result<UniqueFd> open_for(int access, const std::string& path) {
  TRY(check_regular(path));
  return open_file("mapping", path, access | O_NOCTTY | O_NONBLOCK);
}

// Whether `path` still leads to the file that is open; a mapping is replaced, never rewritten.
Result<> check_still(const std::string& path, int fd) {
  struct stat opened {};
  struct stat named {};
  if (::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
      opened.st_dev == named.st_dev && opened.st_ino == named.st_ino) {
    return {};
  }
  return failed("mapping {} was replaced or removed while it was opened; try again", path);
}

// For a write lock; the lock is what a read-only file cannot have.
Result<UniqueFd> open_for_lock(const std::string& path) {
  Result<UniqueFd> fd = open_for(O_RDWR, path);
  if (fd || (fd.error().os_errno != EACCES && fd.error().os_errno != EROFS)) return fd;
  return os_error(fd.error().os_errno,
                  "mapping {} cannot be locked for this VM alone, which takes write permission",
                  path);
}

Result<> replace_mapping(const std::string& path, const std::string& text) {
  const UniqueFd old = TRY(open_for_lock(path));
  TRY(lock_file(old.get(), "mapping " + path, true));
  const std::string before = TRY(content_of(old.get(), path));
  if (!before.starts_with(kMagic)) {
    return failed("{} is not a mapping file and is left as it is; give another name", path);
  }
  TRY(check_still(path, old.get()));
  return replace_file(path, text);
}

}  // namespace

const char* mode_name(MappingMode mode) {
  return mode == MappingMode::kVirtual ? "virtual" : "physical";
}

Result<MappingMode> parse_mapping_mode(std::string_view text) {
  for (const MappingMode mode : {MappingMode::kVirtual, MappingMode::kPhysical}) {
    if (text == mode_name(mode)) return mode;
  }
  return usage_error("'{}' is not a mode of a mapping; write virtual or physical", shown(text));
}

Result<MappingFile> parse_mapping(std::string_view text, const std::string& path) {
  const std::string_view body = TRY(check_frame(text, path));
  const Values values = TRY(read_lines(body, path));
  MappingFile mapping = TRY(read_values(values, path));
  // Order, spacing, leading zeroes, capital letters: one content has one text.
  if (print_mapping(mapping) != text) {
    return failed("mapping {} is not written as plumb writes it; {}", path, kRemedy);
  }
  return mapping;
}

std::string print_mapping(const MappingFile& mapping) {
  const std::map<std::string_view, std::string> values{
      {"uuid", mapping.uuid},
      {"mode", mode_name(mapping.mode)},
      {"wwid", mapping.wwid.text()},
      {"serial", mapping.serial},
      {"vendor", mapping.vendor},
      {"model", mapping.model},
      {"size-bytes", std::to_string(mapping.size_bytes)},
      {"logical-block-size", std::to_string(mapping.logical_block_size)},
      {"sharing", mapping.shared ? "shared" : "exclusive"},
      {"allow-weak-identity", mapping.allow_weak_identity ? "true" : "false"},
  };
  std::string text = fmt::format("{}{}\n", kMagic, kVersion);
  for (const Key& key : kKeys) {
    const std::string& value = values.at(key.name);
    if (!value.empty()) text += fmt::format("{} = {}\n", key.name, value);
  }
  return text + checksum_line(text);
}

Result<MappingFile> make_mapping(const Lun& lun, const MappingOptions& options) {
  if (lun.id.weak() && !options.allow_weak_identity) {
    return failed(
        "LUN {} has an identity made of its model and serial number, which may not be unique; add "
        "--allow-weak-identity if it is the right one",
        lun.id.text());
  }
  if (options.mode == MappingMode::kPhysical && lun.transport == Lun::Transport::kNvme) {
    return failed(
        "LUN {} is an NVMe namespace, which takes no SCSI commands; map it in virtual mode",
        lun.id.text());
  }
  if (options.mode == MappingMode::kPhysical && lun.transport == Lun::Transport::kVolume) {
    return failed(
        "LUN {} is a volume of this host, which takes no SCSI commands; map it in virtual mode",
        lun.id.text());
  }
  if (lun.size_bytes == 0) return failed("LUN {} has no medium", lun.id.text());
  MappingFile mapping{.uuid = "", .mode = options.mode, .wwid = lun.id};
  mapping.uuid = TRY(Uuid::random()).text();
  mapping.serial = plain(lun.serial);
  mapping.vendor = plain(lun.vendor);
  mapping.model = plain(lun.model);
  mapping.size_bytes = lun.size_bytes;
  mapping.logical_block_size = lun.logical_block_size;
  mapping.shared = options.shared;
  mapping.allow_weak_identity = options.allow_weak_identity;
  return mapping;
}

std::vector<std::string> differences(const MappingFile& mapping, const Lun& lun) {
  std::vector<std::string> found;
  if (lun.size_bytes < mapping.size_bytes) {
    found.push_back(fmt::format(
        "LUN {} has shrunk from {} to {} bytes since it was mapped; check the array, and map it "
        "again if that is right",
        lun.id.text(), mapping.size_bytes, lun.size_bytes));
  }
  if (lun.logical_block_size != mapping.logical_block_size) {
    found.push_back(fmt::format(
        "LUN {} has blocks of {} bytes, and had {} when it was mapped; check the array, and map it "
        "again if that is right",
        lun.id.text(), lun.logical_block_size, mapping.logical_block_size));
  }
  const std::string serial = plain(lun.serial);
  if (!serial.empty() && !mapping.serial.empty() && serial != mapping.serial) {
    found.push_back(fmt::format(
        "LUN {} has the serial number {}, and the one that was mapped had {}: it is another LUN "
        "with the same identity; check the array, and map it again if that is right",
        lun.id.text(), serial, mapping.serial));
  }
  return found;
}

Result<> write_mapping(const std::string& path, const MappingFile& mapping, bool replace) {
  const std::string text = print_mapping(mapping);
  TRY(parse_mapping(text, path));  // a LUN may tell of itself what a mapping cannot hold
  Result<> made = create_file(path, text);
  if (made || made.error().os_errno != EEXIST) return made;
  if (replace) return replace_mapping(path, text);
  return failed("{} exists already and is left as it is; give another name, or --replace", path);
}

Result<MappingFile> read_mapping(const std::string& path) {
  const UniqueFd fd = TRY(open_for(O_RDONLY, path));
  const std::string text = TRY(content_of(fd.get(), path));
  return parse_mapping(text, path);
}

Result<OpenMapping> open_mapping(const std::string& path) {
  MappingFile mapping = TRY(read_mapping(path));
  UniqueFd fd = TRY(mapping.shared ? open_for(O_RDONLY, path) : open_for_lock(path));
  TRY(lock_file(fd.get(), "mapping " + path, !mapping.shared));
  const std::string text = TRY(content_of(fd.get(), path));
  if (text != print_mapping(mapping)) {
    return failed("mapping {} changed while it was opened; try again", path);
  }
  TRY(check_still(path, fd.get()));
  return OpenMapping{std::move(mapping), std::move(fd)};
}

}  // namespace plumb
