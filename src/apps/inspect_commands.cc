// stem where, info, diff: addresses, a model's description, what differs between two.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>

#include "apps/commands.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "inspect/table_diff.h"
#include "io/safetensors.h"

namespace stem {
namespace {

struct WhereOptions {
  std::string model;
  std::vector<std::string> texts;
  bool json = false;
};

void run_where(const WhereOptions& o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model);
  const ModelConfig& c = opened.model().config;
  if (!c.has_table()) {
    fail(ErrorCode::kUsage, "{}: this model has no STEM table (ffn_variant {}): no addresses", o.model,
         name_of(c.variant));
  }
  const bool zeros = !opened.model().table.present(), reference = opened.loaded.reference.has_value();
  if (zeros && !reference)
    fail(ErrorCode::kUsage,
         "{}: every row is zero and none is stored: no addresses (stem attach-rows --calibrate TEXT "
         "writes reference rows)",
         o.model);
  const std::filesystem::path path = std::filesystem::path(o.model) / (zeros ? kReferenceFile : kTableFile);
  const Safetensors file = Safetensors::open(path);
  const bool converted = std::filesystem::exists(std::filesystem::path(o.model) / kConversionFile);
  Json result = Json::array();
  for (const std::string& text : o.texts) {
    const auto ids = opened.tokenizer().encode(text, false);
    if (ids.empty()) fail(ErrorCode::kUsage, "where: expected a text, found an empty one");
    if (!o.json && ids.size() > 1)
      fmt::print("{} is {} tokens, each with a record of its own\n", in_quotes(text), ids.size());
    if (!o.json && !text.starts_with(' ') && opened.tokenizer().token_id(" " + text)) {
      fmt::print("note: inside a sentence the word is another token, {}\n", in_quotes(" " + text));
    }
    for (const std::int32_t id : ids) {
      const RecordAddress a = record_address(file, id);
      const std::string token = opened.tokenizer().decode({&id, 1}, false, true);
      const auto at = static_cast<std::size_t>(id);
      Json row{{"text", text},           {"token", token},     {"id", id},
               {"file", path.string()},  {"offset", a.offset}, {"bytes", a.bytes},
               {"layers", c.stem_layers}};
      if (reference) row["reference_occurrences"] = opened.loaded.reference->occurrences[at];
      if (zeros) row["reference"] = true;
      if (!opened.loaded.stats.frequency.empty()) {
        row["frequency"] = opened.loaded.stats.frequency[at];
        row["updates"] = opened.loaded.stats.updates[at];
      }
      result.push_back(row);
      if (o.json) continue;
      fmt::print("{}  token id {}\n  {} {} bytes at offset {} of {}\n", in_quotes(token), id,
                 zeros ? "reference record (its own is zero)  " : "record  ",
                 count_text(static_cast<std::int64_t>(a.bytes)),
                 count_text(static_cast<std::int64_t>(a.offset)), path.string());
      const std::uint64_t row_bytes = a.bytes / static_cast<std::uint64_t>(c.stem_layer_count());
      for (std::size_t s = 0; s < c.stem_layers.size(); ++s) {
        fmt::print("  layer {:<2} row of {} values at offset {}\n", c.stem_layers[s], c.ffn,
                   count_text(static_cast<std::int64_t>(a.offset + s * row_bytes)));
      }
      if (reference)
        fmt::print("  occurs {} times in the text that the reference rows are from\n",
                   count_text(opened.loaded.reference->occurrences[at]));
      if (row.contains("updates"))
        fmt::print("  seen {} times in the {} text, updated in {} steps\n", count_text(row["frequency"]),
                   converted ? "conversion's" : "training", count_text(row["updates"]));
    }
  }
  if (o.json) fmt::print("{}", dump_json(result));
}

struct InfoOptions {
  std::string model;
  bool json = false;
};

void run_info(const InfoOptions& o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model);
  const ModelConfig& c = opened.model().config;
  const Manifest& m = opened.loaded.manifest;
  const Accounting a = account(c);
  if (o.json) {
    fmt::print(
        "{}",
        dump_json({{"model", o.model},
                   {"uuid", uuid_text(m.uuid)},
                   {"model_version", m.model_version},
                   {"created", m.created},
                   {"digests", "verified"},
                   {"config",
                    config_to_json(c, opened.model().table.dtype() == DType::bf16 ? "bfloat16" : "float32")},
                   {"tokenizer_size", opened.tokenizer().vocab_size()},
                   {"dense_parameters", a.dense_parameters},
                   {"expert_parameters", a.expert_parameters},
                   {"table_parameters", a.table_parameters},
                   {"active_parameters", a.active_parameters},
                   {"deleted_parameters", a.deleted_parameters},
                   {"flops_per_token", a.flops_per_token},
                   {"flops_per_token_with_lookup", a.flops_per_token_with_lookup},
                   {"machine", machine_text()}}));
    return;
  }
  const double table_bytes = static_cast<double>(c.vocab * opened.model().table.record_bytes());
  fmt::print("{}\n  uuid       {}, version {}, made {}\n", o.model, uuid_text(m.uuid), m.model_version,
             m.created);
  fmt::print(
      "  files      {} files, every SHA-256 as in stem.json (unsigned: whoever can write the files can write "
      "it too)\n",
      m.files.size());
  fmt::print("  shape      D {}  L {}  H {}  K {}  F {}  V {}  context {}  head {}\n", c.width, c.layers,
             c.heads, c.kv_heads, c.ffn, c.vocab, c.max_positions, c.tied ? "tied" : "untied");
  if (c.stem_layers.empty())
    fmt::print("  ffn        dense in every layer: no table, nothing to edit\n");
  else
    fmt::print("  ffn        {} in layers {}, dense in the others\n", name_of(c.variant),
               fmt::join(c.stem_layers, ", "));
  if (c.has_experts()) {
    const ExpertShape e = c.expert_shape();
    fmt::print(
        "  experts    {} of width {}, {} for a token, {} parameters in all: no table, nothing to edit\n",
        e.experts, e.width, e.chosen, count_text(a.expert_parameters));
  }
  fmt::print("  parameters {} dense + {} in the table; {} active for a token; {} deleted up-projection\n",
             count_text(a.dense_parameters), count_text(a.table_parameters), count_text(a.active_parameters),
             count_text(a.deleted_parameters));
  fmt::print("  FLOPs      {:.2f} M a token ({:.2f} M counting the embedding lookup as a product)\n",
             a.flops_per_token / 1e6, a.flops_per_token_with_lookup / 1e6);
  if (c.has_table() && !opened.model().table.present())
    fmt::print("  table      none stored: zeros until edited{}\n",
               opened.loaded.reference ? "; swaps go by the reference rows" : "");
  else if (c.has_table())
    fmt::print("  table      {} in {} ({} a record)\n", bytes_text(table_bytes),
               opened.model().table.stored() ? name_of(*opened.model().table.stored())
                                             : name_of(opened.model().table.dtype()),
               bytes_text(table_bytes / static_cast<double>(c.vocab)));
  fmt::print("  machine    {}\n", machine_text());
}

struct DiffOptions {
  std::string a, b;
  std::int64_t most = 20;
  bool json = false;
};

std::string joined(const std::vector<std::int64_t>& layers) {
  return fmt::format("{}", fmt::join(layers, ", "));
}

void run_diff(const DiffOptions& o) {
  Runtime runtime;
  LoadOptions unverified;
  unverified.verify = false;  // the point is to look at files that may have been changed
  const LoadedModel a = load_model_directory(o.a, runtime.inference(), unverified),
                    b = load_model_directory(o.b, runtime.inference(), unverified);
  Json result{{"a", o.a},
              {"b", o.b},
              {"same_uuid", a.manifest.uuid == b.manifest.uuid},
              {"rows", Json::array()},
              {"files", Json::array()}};
  for (const LoadedModel* m : {&a, &b}) {
    for (const Difference& d : manifest_differences(m->directory, m->manifest)) {
      result["files"].push_back(d.text);
      if (!o.json) fmt::print("{}\n", d.text);
    }
  }
  const auto rows = diff_tables(a.model.table, b.model.table, o.a, o.b);
  std::map<std::int32_t, std::vector<RowDifference>> tokens;
  for (const RowDifference& row : rows) tokens[row.token].push_back(row);
  std::int64_t shown_tokens = 0;
  for (const auto& [token, differences] : tokens) {
    std::vector<std::int64_t> layers;
    double largest = 0;
    for (const RowDifference& d : differences) {
      layers.push_back(a.model.config.stem_layers[static_cast<std::size_t>(d.layer)]);
      largest = std::max(largest, d.max_abs_difference);
    }
    const auto text = [&](std::int32_t id) { return a.tokenizer.decode({&id, 1}, false, true); };
    Json row{{"token", text(token)}, {"id", token}, {"layers", layers}, {"max_abs_difference", largest}};
    const auto with = differences.front().exchanged_with;
    if (with) row["exchanged_with"] = text(*with);
    result["rows"].push_back(row);
    if (!o.json && shown_tokens++ < o.most) {
      fmt::print("token {} (id {}) differs in layers {}{}\n", in_quotes(text(token)), token, joined(layers),
                 with ? fmt::format(": it holds the record of {}", in_quotes(text(*with)))
                      : fmt::format(", by up to {:.3g}", largest));
    }
  }
  if (o.json) return fmt::print("{}", dump_json(result));
  if (static_cast<std::int64_t>(tokens.size()) > o.most)
    fmt::print("… and {} more tokens\n", static_cast<std::int64_t>(tokens.size()) - o.most);
  fmt::print("{} of {} records differ\n", tokens.size(), a.model.config.vocab);
}

}  // namespace

void add_where_command(CLI::App& app) {
  auto o = std::make_shared<WhereOptions>();
  CLI::App* command =
      app.add_subcommand("where", "the address of a token: id, record offset in the file, layers");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("text", o->texts, "text as it stands in a sentence, for example \" Spain\"")
      ->required();
  command->add_flag("--json", o->json, "addresses as JSON");
  command->callback([o] { run_where(*o); });
}

void add_info_command(CLI::App& app) {
  auto o = std::make_shared<InfoOptions>();
  CLI::App* command = app.add_subcommand("info", "what a model is: shape, parameters, FLOPs, digests");
  command->add_option("model", o->model, "model directory")->required();
  command->add_flag("--json", o->json, "figures as JSON");
  command->callback([o] { run_info(*o); });
}

void add_diff_command(CLI::App& app) {
  auto o = std::make_shared<DiffOptions>();
  CLI::App* command = app.add_subcommand("diff",
                                         "which records differ between two models, and which files are not "
                                         "as their manifest says; exits 0 whether they differ or not");
  command->add_option("a", o->a, "model directory")->required();
  command->add_option("b", o->b, "model directory")->required();
  command->add_option("--most", o->most, "tokens to list")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_flag("--json", o->json, "differences as JSON");
  command->callback([o] { run_diff(*o); });
}

}  // namespace stem
