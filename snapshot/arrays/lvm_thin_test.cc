// The suite runs over the real LVM in the lab (tests/lab/cases/array-lvm-thin.sh); here is what LVM
// may say, and what becomes of it.
#include "snapshot/arrays/lvm_thin.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "snapshot/arrays/lvm_report.h"
#include "tests/temporary_folder.h"

namespace plumb {
namespace {

// As lvm 2.03.16 writes it.
std::string row(const std::string& name, const std::string& pool, const std::string& more) {
  return R"({"lv_name":")" + name + R"(", "pool_lv":")" + pool +
         R"(", "origin":"", "lv_path":"/dev/vg0/)" + name +
         R"(", "lv_kernel_major":"253", "lv_kernel_minor":"7", "lv_device_open":"open", )" +
         R"("lv_size":"4194304", "metadata_percent":"10.64", "lv_check_needed":"", )" + more + "}";
}
const std::string kData = row("data", "pool", R"("lv_tags":"", "data_percent":"12.5",
  "lv_health_status":"")");
const std::string kPool = row("pool", "", R"("lv_tags":"", "data_percent":"12.5",
  "lv_health_status":"")");

std::string report(const std::string& rows) { return R"({"report": [{"lv": [)" + rows + "]}]}"; }

// An array whose lvm is a script.
class ScriptedLvm {
 public:
  explicit ScriptedLvm(const std::string& script) {
    const std::string path = folder_.path() + "/lvm";
    std::ofstream(path) << "#!/bin/sh\n" << script;
    REQUIRE(::chmod(path.c_str(), 0700) == 0);
    array_ = make_lvm_thin_array(
        {.name = "lvm", .volume_group = "vg0", .pool = "pool", .program = path});
  }
  ArrayProvider* operator->() { return array_.get(); }

 private:
  TemporaryFolder folder_;
  std::unique_ptr<ArrayProvider> array_;
};

std::string health_with(const std::string& rows) {
  ScriptedLvm array("cat <<'END'\n" + report(rows) + "\nEND\n");
  Result<> health = array->health();
  return health ? "" : health.error().message;
}

}  // namespace

TEST_CASE("a report of LVM is read") {
  const std::string snapshot = row("plumb.s", "pool", R"("lv_tags":"plumb:array=a,plumb:of=data",
    "data_percent":"", "lv_health_status":"")");
  const auto all = parse_lvs(report(kPool + "," + snapshot)).value();
  REQUIRE(all.size() == 2);
  CHECK(all[0].pool.empty());
  CHECK(all[0].data_percent == 12.5);
  CHECK(all[1].name == "plumb.s");
  CHECK(all[1].pool == "pool");
  CHECK(all[1].number == ::makedev(253, 7));
  CHECK(all[1].open);
  CHECK(all[1].size_bytes == 4194304);
  CHECK(all[1].has_tag("plumb:array=a"));
  CHECK_FALSE(all[1].has_tag("plumb:array"));
  CHECK(all[1].tag_after("plumb:of=") == "data");
  CHECK(all[1].tag_after("plumb:no=").empty());
  CHECK(parse_lvs(report("")).value().empty());
}

TEST_CASE("what is no report of LVM is refused") {
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), std::string(R"({"report":1})"),
        std::string(R"({"report":[1]})"), std::string(R"({"report":[{"lv":1}]})"), report("1"),
        report(R"({"lv_name":"x"})"), report(R"({"lv_name":1})"),
        std::string(report(kData)).replace(report(kData).find("4194304"), 7, "4.0MiB!")}) {
    CAPTURE(text);
    CHECK_FALSE(parse_lvs(text).ok());
  }
}

TEST_CASE("a pool of LVM that is not well says so") {
  const auto pool = [](const std::string& percent, const std::string& health) {
    return row("pool", "",
               R"("lv_tags":"", "data_percent":")" + percent + R"(", "lv_health_status":")" +
                   health + "\"");
  };
  CHECK(health_with(pool("99.99", "")).empty());
  CHECK_THAT(health_with(pool("100.00", "")),
             Catch::StartsWith("array lvm (LVM vg0/pool): it is full"));
  CHECK_THAT(health_with(pool("12", "out_of_data")), Catch::Contains("LVM says: out_of_data"));
  CHECK_THAT(health_with(kData), Catch::Contains("there is no such thin pool"));
}

TEST_CASE("what LVM refuses is told with its own words") {
  ScriptedLvm array("echo '  WARNING: x' >&2; echo '  Volume group \"vg0\" not found' >&2; exit 5");
  CHECK_THAT(array->health().error().message,
             Catch::EndsWith("lvs:   Volume group \"vg0\" not found"));
  ScriptedLvm busy("[ $1 = lvs ] && cat <<'END' && exit\n" +
                   report(row("plumb.s", "pool", R"("lv_tags":"plumb:array=lvm",
                     "data_percent":"", "lv_health_status":"")")) +
                   "\nEND\necho '  Logical volume vg0/plumb.s in use.' >&2; exit 5");
  CHECK(busy->unmap("vg0/plumb.s").error().kind == ErrorKind::kLocked);
}

}  // namespace plumb
