// The command line of an EqualLogic group, as it comes over a terminal: lines to send, and what is
// read from the output. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::eql {

struct Answer {
  std::vector<std::string> lines;  // without the command's echo, and without blanks at their ends
  std::string error;               // what follows "% Error" or "Error:"; "" when it is well

  // The rest of the line that begins so; "" without one.
  std::string after(std::string_view prefix) const;
  bool no_such() const { return error.find("does not exist") != std::string::npos; }
};

// What is sent for these commands: settings that make the output readable before them, and the end
// of the session after them.
std::string script(const std::vector<std::string>& commands);

// The answers to all commands of a script. An error when the output has not the prompts for them:
// `group` is what stands before the '>' of a prompt.
Result<std::vector<Answer>> answers(std::string_view output, std::string_view group,
                                    const std::vector<std::string>& commands);

// "5GB", "1.5TB", "5120MB".
Result<uint64_t> size_bytes(std::string_view text);

// The names in the first column of a table, below its line of dashes; long ones go on in the next
// line, after two blanks.
std::vector<std::string> first_column(const Answer& answer);

}  // namespace plumb::eql
