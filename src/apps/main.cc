// stem: the command line. Errors are caught here, once: one line on stderr; exit code 1, or 2 for usage.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "apps/commands.h"
#include "core/error.h"

int main(int argc, char** argv) {
  CLI::App app{"stem: trains, runs, edits and inspects STEM language models, whose facts have addresses.",
               "stem"};
  app.set_version_flag("--version", "stem 0.1.0");
  app.require_subcommand(1);
  app.failure_message([](const CLI::App* failed, const CLI::Error& e) {
    return fmt::format("stem: {} (see '{} --help')\n", e.what(),
                       failed->get_parent() == nullptr ? "stem" : "stem " + failed->get_name());
  });
  stem::add_atlas_command(app);
  stem::add_data_command(app);
  stem::add_train_command(app);
  stem::add_generate_command(app);
  stem::add_chat_command(app);
  stem::add_eval_command(app);
  stem::add_edit_command(app);
  stem::add_where_command(app);
  stem::add_info_command(app);
  stem::add_diff_command(app);
  stem::add_report_command(app);
  std::signal(SIGPIPE, SIG_IGN);  // `stem … | head` ends with a write error, not a signal
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const stem::Error& e) {
    fmt::print(stderr, "stem: {}\n", e.what());
    return e.code() == stem::ErrorCode::kUsage ? 2 : 1;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "stem: not enough memory\n");
    return 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "stem: {}\n", e.what());
    return 1;
  }
}
