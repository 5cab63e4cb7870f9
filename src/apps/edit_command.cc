// stem edit swap|exchange: before and after a prompt, and the patch file.
#include <CLI/CLI.hpp>
#include <memory>
#include <set>

#include "apps/commands.h"
#include "apps/patched_model.h"

namespace stem {
namespace {

struct Options {
  std::string model, rule = "auto", layers, prompt, out;
  SwapRequest request;
  std::int64_t max_tokens = 24;
  bool json = false;
};

std::optional<std::pair<std::int64_t, std::int64_t>> layer_range(const std::string& text) {
  if (text.empty()) return std::nullopt;
  std::int64_t first = 0, last = 0;
  char rest = 0;
  const int read = std::sscanf(text.c_str(), "%ld-%ld%c", &first, &last, &rest);
  if (read == 1 && text.find('-') == std::string::npos)
    last = first;
  else if (read != 2)
    fail(ErrorCode::kUsage, "--layers: expected a layer or a range such as 1-4, found \"{}\"", text);
  return std::pair{first, last};
}

void run_edit(Options o, bool exchange) {
  o.request.exchange = exchange;
  o.request.rule = span_rule_from(o.rule);
  o.request.layers = layer_range(o.layers);
  if (!o.out.empty()) require_patch_place(o.out);
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model);
  const ModelConfig& config = opened.model().config;
  const SwapPlan plan =
      plan_swap(opened.loaded.swap_source(), opened.tokenizer(), config.stem_layers, o.request);
  Overlay overlay;
  for (const OverlayRow& row : plan.rows) overlay.put(opened.model().table, row);

  Json result{{"model", o.model},
              {"edit", exchange ? "exchange" : "swap"},
              {"slot", o.request.slot},
              {"donors", o.request.donors},
              {"rule", name_of(o.request.rule)},
              {"spellings", plan.spellings},
              {"slot_ids", plan.slot_tokens},
              {"donor_ids", plan.donor_tokens},
              {"rows", plan.rows.size()},
              {"notes", plan.notes}};
  if (!o.json) {
    std::set<std::int64_t> layers;
    for (const OverlayRow& row : plan.rows)
      layers.insert(config.stem_layers[static_cast<std::size_t>(row.layer)]);
    std::vector<std::string> covered;
    for (const std::string& s : plan.spellings) covered.push_back(in_quotes(s));
    fmt::print("slot {} reads {}{}: {} rows in layers {}\n", fmt::join(covered, ", "),
               fmt::join(o.request.donors, " + "), exchange ? " and the other way round" : "",
               plan.rows.size(), fmt::join(layers, ", "));
    for (const std::string& note : plan.notes) fmt::print("note: {}\n", note);
    fmt::print(
        "note: a swap changes every fact of the slot's name; what other names know of it does not change\n");
  }
  if (!o.prompt.empty()) {
    const Context context = runtime.inference();
    const auto ids = prompt_tokens(opened.loaded, o.prompt);
    const std::string before = complete(context, opened.loaded, nullptr, o.prompt, o.max_tokens);
    const std::string after = complete(context, opened.loaded, &overlay, o.prompt, o.max_tokens);
    result.update({{"prompt", o.prompt}, {"prompt_ids", ids}, {"before", before}, {"after", after}});
    if (!o.json)
      fmt::print("prompt: {}   (ids {}: the same before and after)\nbefore:{}\nafter: {}\n", o.prompt,
                 fmt::join(ids, " "), before, after);
  }
  if (!o.out.empty()) {
    Json parameters{
        {"rule", name_of(o.request.rule)}, {"exchange", exchange}, {"donor_ids", plan.donor_tokens}};
    PatchFile patch = make_patch(opened.target(), plan,
                                 {{"subject", o.request.slot},
                                  {"spellings", plan.spellings},
                                  {"prompt", o.prompt},
                                  {"donors", o.request.donors}},
                                 parameters);
    write_patch(o.out, patch);
    result.update({{"patch", o.out}, {"id", patch.id}});
    if (!o.json)
      fmt::print("patch: {} (id {}…); use it with --patch {}\n", o.out, patch.id.substr(0, 12), o.out);
  }
  if (o.json) fmt::print("{}", dump_json(result));
}

}  // namespace

void add_edit_command(CLI::App& app) {
  CLI::App* edit =
      app.add_subcommand("edit", "make a slot's tokens read other rows; the model itself is never changed");
  edit->require_subcommand(1);
  for (const bool exchange : {false, true}) {
    auto o = std::make_shared<Options>();
    CLI::App* command =
        exchange ? edit->add_subcommand("exchange", "slot and donor read each other's records")
                 : edit->add_subcommand("swap", "the slot reads the donor's record (or the mean of several)");
    command->add_option("model", o->model, "model directory")->required();
    command
        ->add_option("--slot", o->request.slot,
                     "name that is edited (all its spellings; with a leading space just that one)")
        ->required();
    command->add_option("--donor", o->request.donors, "name whose record it reads; repeat for several tokens")
        ->required()
        ->allow_extra_args(false);
    command->add_option("--rule", o->rule, "auto, one_to_one, average, copy, left_pad, right_pad, subset")
        ->capture_default_str();
    command->add_option("--layers", o->layers, "only STEM layers in this range, for example 1-4");
    command->add_flag("--pieces", o->request.pieces, "accept names that the tokenizer cuts into pieces");
    command->add_option("-p,--prompt", o->prompt, "show the continuation before and after");
    command->add_option("--max-tokens", o->max_tokens, "length of the continuations")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    command->add_option("-o,--out", o->out, "write a patch, NAME.stempatch");
    command->add_flag("--json", o->json, "result as JSON");
    command->callback([o, exchange] { run_edit(*o, exchange); });
  }
}

}  // namespace stem
