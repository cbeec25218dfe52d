#include "snapshot/arrays/eql_cli.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"

namespace plumb::eql {
namespace {

constexpr size_t kMaxErrorBytes = 300;
constexpr double kMostBytes = 1e18;

const std::vector<std::string>& settings() {
  static const std::vector<std::string> all = {"stty columns 255",
                                               "stty hardwrap off",
                                               "cli-settings events off",
                                               "cli-settings paging off",
                                               "cli-settings confirmation off",
                                               "cli-settings formatoutput off",
                                               "cli-settings displayinMB on"};
  return all;
}

std::string_view without_end(std::string_view line) {
  const size_t last = line.find_last_not_of(" \t\r");
  return last == std::string_view::npos ? "" : line.substr(0, last + 1);
}

// Between one prompt and the next.
Answer read(std::string_view text, const std::string& command) {
  Answer answer;
  while (!text.empty()) {
    const std::string_view line = without_end(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    for (const std::string_view mark : {"% Error", "Error:"}) {
      if (!answer.error.empty() || !line.starts_with(mark)) continue;
      const size_t words = line.find_first_not_of(" -:", mark.size());
      const std::string_view reason =
          words == std::string_view::npos ? "no reason given" : line.substr(words);
      answer.error = printable(reason.substr(0, kMaxErrorBytes));
    }
    if (line.empty() || (answer.lines.empty() && line == command)) continue;
    answer.lines.emplace_back(line);
  }
  return answer;
}

// Where the next prompt is at the beginning of a line; npos without one.
size_t next_prompt(std::string_view text, const std::string& prompt) {
  if (text.starts_with(prompt)) return 0;
  const size_t found = text.find("\n" + prompt);
  return found == std::string_view::npos ? found : found + 1;
}

}  // namespace

std::string Answer::after(std::string_view prefix) const {
  for (const std::string& line : lines) {
    if (!line.starts_with(prefix)) continue;
    const size_t begin = line.find_first_not_of(' ', prefix.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string script(const std::vector<std::string>& commands) {
  std::string text;
  for (const std::string& line : settings()) text += line + "\n";
  for (const std::string& line : commands) text += line + "\n";
  return text + "logout\n";
}

Result<std::vector<Answer>> answers(std::string_view output, std::string_view group,
                                    const std::vector<std::string>& commands) {
  const std::string prompt = std::string(group) + ">";
  std::vector<std::string> sent = settings();
  sent.insert(sent.end(), commands.begin(), commands.end());
  size_t at = next_prompt(output, prompt);
  std::vector<Answer> all;
  for (const std::string& command : sent) {
    if (at == std::string_view::npos) {
      return failed("its answers end before '{}'; see that the group is called '{}'", command,
                    group);
    }
    output.remove_prefix(at + prompt.size());
    output.remove_prefix(std::min(output.find_first_not_of(' '), output.size()));
    at = next_prompt(output, prompt);
    all.push_back(read(output.substr(0, at), command));
  }
  if (at == std::string_view::npos) {
    return failed("its answer to '{}' has no end", sent.back());
  }
  all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(settings().size()));
  return all;
}

Result<uint64_t> size_bytes(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  constexpr std::pair<std::string_view, double> kUnits[] = {{"KB", 1024.0},
                                                            {"MB", 1024.0 * 1024},
                                                            {"GB", 1024.0 * 1024 * 1024},
                                                            {"TB", 1024.0 * 1024 * 1024 * 1024}};
  for (const auto& [name, bytes] : kUnits) {
    if (error != std::errc() || unit != name) continue;
    if (number >= 0 && number * bytes <= kMostBytes) return static_cast<uint64_t>(number * bytes);
  }
  return failed("'{}' is no size", printable(text.substr(0, kMaxErrorBytes)));
}

std::vector<std::string> first_column(const Answer& answer) {
  std::vector<std::string> names;
  bool below = false;
  for (const std::string& line : answer.lines) {
    const bool dashes = line.starts_with("---");
    if (below && !dashes && line.starts_with("  ") && !names.empty()) {
      names.back() += line.substr(2, line.find(' ', 2) - 2);
    } else if (below && !dashes && line[0] != ' ') {
      names.push_back(line.substr(0, line.find(' ')));
    }
    below = below || dashes;
  }
  return names;
}

}  // namespace plumb::eql
