#include "cli/source_message.h"

#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

namespace plumb {
namespace {

using Json = nlohmann::json;

Json facts_to_json(const FileFacts& facts) {
  const BlockInfo& info = facts.info;
  return {{"size_bytes", info.size_bytes},
          {"logical_block_size", info.logical_block_size},
          {"physical_block_size", info.physical_block_size},
          {"optimal_io_size", info.optimal_io_size},
          {"memory_alignment", info.memory_alignment},
          {"max_discard_bytes", info.max_discard_bytes},
          {"discard_granularity", info.discard_granularity},
          {"max_write_zeroes_bytes", info.max_write_zeroes_bytes},
          {"read_only", info.read_only},
          {"volatile_cache", info.volatile_cache},
          {"block_device", facts.block_device},
          {"shared_flush_depth", facts.shared_flush_depth}};
}

FileFacts facts_from_json(const Json& json) {
  FileFacts facts;
  BlockInfo& info = facts.info;
  json.at("size_bytes").get_to(info.size_bytes);
  json.at("logical_block_size").get_to(info.logical_block_size);
  json.at("physical_block_size").get_to(info.physical_block_size);
  json.at("optimal_io_size").get_to(info.optimal_io_size);
  json.at("memory_alignment").get_to(info.memory_alignment);
  json.at("max_discard_bytes").get_to(info.max_discard_bytes);
  json.at("discard_granularity").get_to(info.discard_granularity);
  json.at("max_write_zeroes_bytes").get_to(info.max_write_zeroes_bytes);
  json.at("read_only").get_to(info.read_only);
  json.at("volatile_cache").get_to(info.volatile_cache);
  json.at("block_device").get_to(facts.block_device);
  json.at("shared_flush_depth").get_to(facts.shared_flush_depth);
  return facts;
}

// What the block layer divides by, or rounds with.
Result<> check(const FileFacts& facts) {
  const BlockInfo& info = facts.info;
  const uint32_t block = info.logical_block_size;
  const bool good = (block == 512 || block == 4096) && info.size_bytes > 0 &&
                    info.size_bytes % block == 0 && info.physical_block_size >= block &&
                    std::has_single_bit(info.memory_alignment);
  if (good) return {};
  return failed("a disk of {} bytes in blocks of {} was handed over, which cannot be",
                info.size_bytes, block);
}

}  // namespace

Json source_to_json(const DiskSource& source) {
  return {{"label", source.label},
          {"device", source.device},
          {"wwn", source.wwn},
          {"read_only", source.claim.read_only},
          {"allow_weak_identity", source.claim.allow_weak_identity},
          {"shared", source.claim.shared},
          {"mapped", source.mapping.valid()},
          {"overlay", source.overlay.valid()},
          {"fua", source.fua},
          {"transfer_limit_bytes", source.transfer_limit_bytes},
          {"facts", facts_to_json(source.facts)}};
}

std::vector<int> source_fds(const DiskSource& source) {
  std::vector<int> fds{source.fd.get()};
  for (const UniqueFd* fd : {&source.mapping, &source.overlay}) {
    if (*fd) fds.push_back(fd->get());
  }
  return fds;
}

Result<DiskSource> source_from_json(const Json& json, std::vector<UniqueFd> fds) {
  DiskSource source;
  bool mapped = false;
  bool overlay = false;
  try {
    json.at("mapped").get_to(mapped);
    json.at("overlay").get_to(overlay);
    json.at("label").get_to(source.label);
    json.at("device").get_to(source.device);
    json.at("wwn").get_to(source.wwn);
    json.at("read_only").get_to(source.claim.read_only);
    json.at("allow_weak_identity").get_to(source.claim.allow_weak_identity);
    json.at("shared").get_to(source.claim.shared);
    json.at("fua").get_to(source.fua);
    json.at("transfer_limit_bytes").get_to(source.transfer_limit_bytes);
    source.facts = facts_from_json(json.at("facts"));
  } catch (const Json::exception& error) {
    return failed("a disk was handed over by a message that cannot be read: {}", error.what());
  }
  TRY(check(source.facts));
  if (fds.size() != 1U + (mapped ? 1 : 0) + (overlay ? 1 : 0)) {
    return failed("a disk was handed over with {} descriptors", fds.size());
  }
  source.fd = std::move(fds.front());
  if (mapped) source.mapping = std::move(fds[1]);
  if (overlay) source.overlay = std::move(fds.back());
  return source;
}

}  // namespace plumb
