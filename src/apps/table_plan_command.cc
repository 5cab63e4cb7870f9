// stem plan: which placement of a model's table this machine and a limit of memory allow, and how fast each
// would be.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "apps/commands.h"
#include "apps/kv_option.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/system_text.h"
#include "apps/table_plan.h"
#include "core/clock.h"
#include "core/error.h"
#include "tables/disk_rates.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, memory, table;
  std::int64_t context = 0;
  bool zipf = false, json = false;
  LoadOptions load{.serving = true};
};

// Memory of the process that no file stands behind.
double resident_bytes() {
  const std::string kilobytes = system_value(system_text("/proc/self/status"), "RssAnon");
  if (!kilobytes.empty()) return 1024.0 * std::stod(kilobytes);
  fail(ErrorCode::kIo, "/proc/self/status: expected a line RssAnon, found none");
}

// Seconds of a token whose record is in memory: the same id again and again.
double token_seconds(Runtime& runtime, const Model& model) {
  constexpr int kBefore = 8, kTimed = 24;
  Session session(runtime.inference(), model, nullptr, kBefore + kTimed);
  std::vector<double> seconds;
  const auto tokens = static_cast<int>(session.capacity());
  for (int i = 0; i < tokens; ++i) {
    const std::int32_t id = 0;
    const auto start = std::chrono::steady_clock::now();
    session.feed({&id, 1});
    if (i >= kBefore || i + 1 == tokens) seconds.push_back(seconds_since(start));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Share of a token's weights that are read before the first row is needed: the layers below, and the
// attention and the first product of that layer (about two thirds of it).
double share_before_rows(const ModelConfig& c) {
  const auto dense = static_cast<double>(account(c).dense_parameters);
  const double layers = dense - (c.tied ? 1.0 : 2.0) * static_cast<double>(c.vocab * c.width);
  const double read = layers + static_cast<double>(c.vocab * c.width);
  return (static_cast<double>(c.stem_layers.front()) + 0.67) / static_cast<double>(c.layers) * layers / read;
}

RecordFile record_file(const fs::path& directory, const ModelConfig& c) {
  const Safetensors file = Safetensors::open(directory / kTableFile);
  const RecordAddress first = record_address(file, 0);
  return {directory / kTableFile, first.offset, first.bytes, c.vocab};
}

struct Measured {
  TablePlanInput input;
  std::optional<DiskRates> disk;
  std::int64_t context = 0;
};

Measured measure(const Options& o, std::int64_t memory) {
  Measured m;
  TablePlanInput& in = m.input;
  in.memory = static_cast<double>(memory);
  in.zipf = o.zipf;
  // Before it is read: what the weights take as they are stored is the least that they can take.
  std::error_code unknown;
  const auto stored = fs::file_size(fs::path(o.model) / kWeightsFile, unknown);
  if (!unknown && static_cast<double>(stored) > 2 * in.memory)
    fail(ErrorCode::kUsage, "--memory: expected more than the dense weights of {} ({} as stored), found {}",
         o.model, bytes_text(static_cast<double>(stored)), bytes_text(in.memory));
  Runtime runtime;
  const double before = resident_bytes();
  const PatchedModel opened = open_model(runtime, o.model, {}, o.load);
  const ModelConfig& c = opened.model().config;
  in.dense = std::max(0.0, resident_bytes() - before);
  m.context = o.context > 0 ? std::min(o.context, c.max_positions) : c.max_positions;
  in.cache = static_cast<double>(m.context * KvCache::row_bytes(opened.model()));
  in.token_s = token_seconds(runtime, opened.model());
  in.program = std::max(0.0, resident_bytes() - in.dense);
  in.vocab = c.vocab;
  if (!opened.model().table.present()) return m;
  in.record = static_cast<double>(opened.model().table.record_bytes());
  in.hidden_s = in.token_s * share_before_rows(c);
  m.disk = measure_disk(record_file(o.model, c));
  in.record_s = m.disk->record_s;
  return m;
}

Json plan_json(const Options& o, const Measured& m, const std::vector<PlacedTable>& plan) {
  const TablePlanInput& in = m.input;
  Json placements = Json::array();
  for (const PlacedTable& p : plan) {
    placements.push_back({{"placement", placement_text(p.placement)},
                          {"fits", p.fits},
                          {"resident_bytes", p.resident},
                          {"hit_rate", p.hit_rate},
                          {"decode_tokens_per_s", p.tokens_per_s}});
    if (!p.fits) placements.back()["reason"] = p.reason;
  }
  const PlacedTable* const best = recommended(plan);
  Json json{{"model", o.model},
            {"memory_bytes", in.memory},
            {"dense_bytes", in.dense},
            {"cache_bytes", in.cache},
            {"context", m.context},
            {"program_bytes", in.program},
            {"table_bytes", in.table()},
            {"record_bytes", in.record},
            {"token_s", in.token_s},
            {"hidden_s", in.hidden_s},
            {"ids", in.zipf ? "zipf" : "text"},
            {"placements", placements},
            {"recommended", best == nullptr ? Json() : Json(placement_text(best->placement))}};
  if (m.disk) {
    json["disk"] = {{"read_path", m.disk->read_path},
                    {"record_s", m.disk->record_s},
                    {"records_per_s", m.disk->records_per_s}};
  }
  return json;
}

void print_plan(const Options& o, const Measured& m, const std::vector<PlacedTable>& plan) {
  const TablePlanInput& in = m.input;
  fmt::print("{}: dense weights {}, keys and values of {} tokens {}, the program {}; may use {}\n", o.model,
             bytes_text(in.dense), count_text(m.context), bytes_text(in.cache), bytes_text(in.program),
             bytes_text(in.memory));
  if (m.disk) {
    fmt::print(
        "table: {} in records of {}; one alone takes {:.0f} us to read ({}), together {:.0f} a second\n",
        bytes_text(in.table()), bytes_text(in.record), 1e6 * m.disk->record_s, m.disk->read_path,
        m.disk->records_per_s);
    fmt::print(
        "a token takes {:.2f} ms here when its rows are in memory, {:.2f} of them before the first is "
        "needed\n",
        1e3 * in.token_s, 1e3 * in.hidden_s);
  }
  fmt::print("{:<18} {:>10} {:>8} {:>10}\n", "placement", "resident", "hits", "tokens/s");
  for (const PlacedTable& p : plan) {
    fmt::print("{:<18} {:>10} {:>7.1f}% {:>10.1f}{}\n", placement_text(p.placement), bytes_text(p.resident),
               100 * p.hit_rate, p.tokens_per_s, p.fits ? "" : "  does not fit: " + p.reason);
  }
  const PlacedTable* const best = recommended(plan);
  if (best != nullptr) fmt::print("recommended: --table {}\n", placement_text(best->placement));
}

void run_table_plan(const Options& o) {
  const std::int64_t memory = bytes_from(o.memory, "--memory");
  std::optional<TablePlacement> wanted;
  if (!o.table.empty()) wanted = placement_from(o.table);
  const Measured m = measure(o, memory);
  const std::vector<PlacedTable> plan = plan_tables(m.input, wanted ? wanted->budget_bytes : 0);
  if (o.json)
    fmt::print("{}", dump_json(plan_json(o, m, plan)));
  else
    print_plan(o, m, plan);
  for (const PlacedTable& p : plan) {
    if (wanted && p.placement.kind == wanted->kind && !p.fits)
      fail(ErrorCode::kUsage, "--table {}: {}", o.table, p.reason);
  }
  if (recommended(plan) == nullptr)
    fail(ErrorCode::kUsage, "--memory: no placement of {} fits in {}: {}", o.model,
         bytes_text(m.input.memory), plan.back().reason);
}

}  // namespace

void add_table_plan_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan", "where a model's table can lie in so much memory, and how fast each place is");
  command->footer(
      "Measures a token and the disk for a second, then predicts decoding of one sequence. Exit code 2 when "
      "nothing fits.\n");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("--memory", o->memory, "memory that may be used in all, such as 2G")->required();
  command->add_option("--table", o->table, "a placement that must fit: memory, mapped or disk:BUDGET");
  command
      ->add_option("--context", o->context, "tokens of keys and values (default: the model's whole context)")
      ->check(CLI::Range(1, 1 << 24));
  add_kv_option(*command, o->load);
  command->add_flag("--zipf", o->zipf, "ids as stem bench draws them, which repeat less than text");
  command->add_flag("!--no-verify", o->load.verify, "do not check the model's digests first");
  command->add_flag("--json", o->json, "figures as JSON");
  command->callback([o] { run_table_plan(*o); });
}

}  // namespace stem
