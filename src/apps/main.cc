// stem: the command line. Errors are caught here, once: one line on stderr; exit code 1, or 2 for usage.
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string_view>

#include "apps/commands.h"
#include "apps/interrupt.h"
#include "core/error.h"

namespace {

// Idle OpenMP threads spin by default: with another busy program on the machine every parallel region then
// waits for a descheduled spinner (measured: 15 times slower training). Between the parts of one token,
// though, they would hardly fall asleep before they are woken: there a wait of some 50 µs is worth it
// (docs/decisions/0008). libgomp reads its settings before main, so the program starts itself once more with
// threads that suit the command, unless the user has chosen.
void choose_idle_threads(int argc, char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  const std::string_view command = argc > 1 ? argv[1] : "";
  const bool token_by_token = command == "serve" || command == "generate" || command == "chat" ||
                              command == "bench" || command == "doctor" || command == "plan" ||
                              command == "write";
  if (token_by_token)
    setenv("GOMP_SPINCOUNT", "1000", 0);
  else
    setenv("OMP_WAIT_POLICY", "passive", 0);
  execv("/proc/self/exe", argv);  // returns only when it failed: then it is merely slower
}

// "stem edit swap" for the subcommand that a wrong command line meant.
std::string command_of(const CLI::App& app) {
  std::string name = app.get_name();
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += " " + at->get_name();
  }
  return name;
}

// "PLACE: cannot create directory: Permission denied", as our own errors read.
std::string message_of(const std::filesystem::filesystem_error& e) {
  std::string what = e.what();
  if (const std::size_t colon = what.find(": "); colon != std::string::npos) what.erase(0, colon + 2);
  if (const std::size_t paths = what.find(" ["); paths != std::string::npos) what.erase(paths);
  return fmt::format("{}: {}", e.path1().string(), what);
}

}  // namespace

int main(int argc, char** argv) {
  choose_idle_threads(argc, argv);
  CLI::App app{"stem: trains, runs, edits and inspects STEM language models, whose facts have addresses.",
               "stem"};
  app.set_version_flag("--version", "stem 0.1.0");
  app.require_subcommand(1);
  app.failure_message([](const CLI::App* failed, const CLI::Error& e) {
    // CLI11 asks for "a subcommand" when it met a word that it does not know.
    const std::vector<std::string> left = failed->remaining(true);
    const std::string what = dynamic_cast<const CLI::RequiredError*>(&e) != nullptr && !left.empty()
                                 ? fmt::format("\"{}\" is no command or option here", left.front())
                                 : std::string(e.what());
    return fmt::format("stem: {} (see '{} --help')\n", what, command_of(*failed));
  });
  stem::add_atlas_command(app);
  stem::add_data_command(app);
  stem::add_train_command(app);
  stem::add_resume_command(app);
  stem::add_plan_command(app);
  stem::add_table_plan_command(app);
  stem::add_import_command(app);
  stem::add_attach_rows_command(app);
  stem::add_convert_command(app);
  stem::add_quantize_command(app);
  stem::add_export_command(app);
  stem::add_generate_command(app);
  stem::add_chat_command(app);
  stem::add_write_command(app);
  stem::add_serve_command(app);
  stem::add_bench_command(app);
  stem::add_doctor_command(app);
  stem::add_fake_model_command(app);
  stem::add_eval_command(app);
  stem::add_edit_command(app);
  stem::add_where_command(app);
  stem::add_info_command(app);
  stem::add_diff_command(app);
  stem::add_report_command(app);
  stem::add_study_command(app);
  std::signal(SIGPIPE, SIG_IGN);  // `stem … | head` ends with a write error, not a signal
  std::signal(SIGXFSZ, SIG_IGN);  // so does a file that grows past its limit (ulimit -f)
  try {
    app.parse(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    fmt::print(stderr, "stem: standard output: could not be written\n");
    return 1;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const stem::Error& e) {
    fmt::print(stderr, "stem: {}\n", e.what());
    return e.code() == stem::ErrorCode::kUsage ? 2 : 1;
  } catch (const stem::Interrupted& e) {
    fmt::print(stderr, "stem: {}\n", e.message);
    return 128 + e.signal;  // as a shell reports a process that a signal ended
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "stem: not enough memory\n");
    return 1;
  } catch (const std::filesystem::filesystem_error& e) {
    fmt::print(stderr, "stem: {}\n", message_of(e));
    return 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "stem: {}\n", e.what());
    return 1;
  }
}
