#include "tests/simulation/block_model.h"

#include <algorithm>

namespace plumb::simulation {

void BlockModel::set(uint32_t block, BlockValue value) {
  blocks_[block].clear();
  blocks_[block].push_back({.value = value, .ended = 0, .surely = true, .durable = true});
}

void BlockModel::begin(uint32_t block, BlockValue value, uint64_t number, uint64_t now,
                       bool surely) {
  blocks_[block].push_back({.value = value, .number = number, .issued = now, .surely = surely});
}

void BlockModel::end(uint32_t block, const Ending& ending) {
  Candidates& candidates = blocks_[block];
  const auto ended =
      std::find_if(candidates.begin(), candidates.end(),
                   [&](const Candidate& candidate) { return candidate.number == ending.number; });
  ended->ended = ending.now;
  ended->surely = ended->surely && ending.ok;
  if (!ended->surely) return;
  for (Candidate& candidate : candidates) {
    if (candidate.ended < ended->issued) {
      candidate.superseded = std::min(candidate.superseded, ending.now);
    }
  }
  if (ending.durable) make_durable(candidates, *ended);
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return candidate.gone && candidate.superseded <= ending.oldest_read;
  });
}

void BlockModel::make_durable(Candidates& candidates, Candidate& durable) {
  durable.durable = true;
  for (Candidate& candidate : candidates) {
    if (candidate.ended < durable.issued) candidate.gone = true;
  }
}

void BlockModel::flushed(uint64_t issued) {
  for (Candidates& candidates : blocks_) {
    if (candidates.size() == 1) {
      candidates.front().durable |= candidates.front().surely && candidates.front().ended < issued;
      continue;
    }
    for (Candidate& candidate : candidates) {
      const bool covered = candidate.surely && !candidate.durable && candidate.ended < issued;
      if (covered) make_durable(candidates, candidate);
    }
  }
}

bool BlockModel::may_read(uint32_t block, BlockValue value, uint64_t issued) const {
  return std::any_of(blocks_[block].begin(), blocks_[block].end(), [&](const Candidate& candidate) {
    return candidate.value == value && candidate.superseded > issued;
  });
}

std::vector<BlockValue> BlockModel::survivors(uint32_t block) const {
  std::vector<BlockValue> values;
  for (const Candidate& candidate : blocks_[block]) {
    if (!candidate.gone) values.push_back(candidate.value);
  }
  return values;
}

bool BlockModel::may_survive(uint32_t block, BlockValue value) const {
  return std::any_of(blocks_[block].begin(), blocks_[block].end(), [&](const Candidate& candidate) {
    return candidate.value == value && !candidate.gone;
  });
}

std::string BlockModel::expected(uint32_t block, bool after_crash) const {
  std::string text;
  for (const Candidate& candidate : blocks_[block]) {
    const bool allowed = after_crash ? !candidate.gone : candidate.superseded == kNever;
    if (!allowed) continue;
    if (!text.empty()) text += ", or ";
    text += describe(candidate.value);
    if (candidate.ended == kNever) text += " (in flight)";
  }
  return text;
}

}  // namespace plumb::simulation
