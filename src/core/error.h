// Errors, by who can cause them: outside data or a user -> stem::Error; our own bug -> require().
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace stem {

/// What kind of outside fault an Error reports. The command line maps kUsage to exit code 2, all others to 1.
enum class ErrorCode {
  kUsage,      ///< a command line or configuration that asks for something impossible
  kNotFound,   ///< a file, token, tensor or name that does not exist
  kFormat,     ///< a file whose bytes are not what its format says
  kMismatch,   ///< two well-formed things that do not belong together
  kIntegrity,  ///< a digest that does not match
  kIo,         ///< the operating system refused: disk full, permission, read error
};

/// A fault in outside data or in what a user asked. The message is one line that names the file, the field,
/// what was expected and what was found.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Throws Error with a message formatted by fmt.
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Aborts with file, line and message when a condition that only our own code can break does not hold.
/// Never used for user input.
void require(bool condition, std::string_view message = "",
             std::source_location where = std::source_location::current());

}  // namespace stem
