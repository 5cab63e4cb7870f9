// Trains the shape of configs/small.toml in f32 and writes what another implementation needs to do the same:
// the initial weights and the batches, and beside them the losses. bench/loss_parity (Python) trains them
// again in PyTorch and compares.
//
//   loss_parity_run SHARD OUT [--steps 1000] [--dense] [--tokens-per-step 2048]
//
// OUT/start.safetensors: the dense weights under Llama's names, "stem.table" [V, S, F], "tokens" and
// "targets" [steps, N] i64. OUT/losses.json: {"steps": …, "losses": […]}.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "data/token_shard.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "kernels/cpu/cpu.h"
#include "model/model.h"
#include "train/trainer.h"

namespace stem {
namespace {

struct Options {
  std::string shard, out;
  std::int64_t steps = 1000, tokens_per_step = 2048;
  bool dense = false;
};

void run(const Options& o) {
  ModelConfig c;
  c.vocab = 8192, c.width = 256, c.layers = 6, c.heads = c.kv_heads = 4, c.head_width = 64, c.ffn = 704;
  c.max_positions = 256, c.tied = false;
  c.variant = o.dense ? FfnVariant::dense : FfnVariant::stem;
  if (!o.dense) c.stem_layers = {1, 4};
  const TokenShard shard = load_shard(o.shard, c.vocab, "");
  Model model(c, {DType::f32, DType::f32});
  init_weights(model, 1);
  TrainOptions t;
  t.steps = o.steps;
  t.batch.tokens_per_step = o.tokens_per_step;
  t.batch.max_sequence = c.max_positions;
  t.batch.document_mask = false;  // whole sequences of 256, as in a plain PyTorch loop
  t.lr = t.table_lr = 1e-3;
  t.warmup = 50;
  t.table_optimizer = "exact";  // PyTorch's AdamW over the whole table

  std::filesystem::create_directories(o.out);
  BatchStream stream(shard, t.batch);
  std::vector<std::int64_t> tokens, targets;
  for (std::int64_t step = 0; step < o.steps; ++step) {
    const Batch batch = stream.at(step);
    tokens.insert(tokens.end(), batch.tokens.begin(), batch.tokens.end());
    targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
  }
  std::vector<TensorSpec> specs{{"tokens", DType::i64, {o.steps, o.tokens_per_step}},
                                {"targets", DType::i64, {o.steps, o.tokens_per_step}},
                                {"model.embed_tokens.weight", DType::f32, {c.vocab, c.width}}};
  for_each_tensor(c, model.weights, [&](const std::string& name, Out view, TensorKind) {
    specs.push_back({name, DType::f32, {view.rows, view.cols}});
  });
  if (!o.dense) specs.push_back({"stem.table", DType::f32, {c.vocab, c.stem_layer_count(), c.ffn}});
  SafetensorsWriter writer(std::filesystem::path(o.out) / "start.safetensors", specs);
  writer.write("tokens", tokens.data(), tokens.size() * sizeof(std::int64_t));
  writer.write("targets", targets.data(), targets.size() * sizeof(std::int64_t));
  writer.write("model.embed_tokens.weight", model.embedding.view);
  for_each_tensor(c, model.weights,
                  [&](const std::string& name, Out view, TensorKind) { writer.write(name, view); });
  if (!o.dense) {
    const Out records = model.table.writable_records();
    writer.write("stem.table", records.data, static_cast<std::uint64_t>(records.size()) * sizeof(float));
  }
  writer.close();

  Workspace workspace;
  Trainer trainer({&cpu_kernels(), &workspace, false}, model, shard, t);
  Json losses = Json::array();
  for (std::int64_t step = 0; step < o.steps; ++step) {
    losses.push_back(trainer.step().loss);
    if ((step + 1) % 100 == 0)
      std::fprintf(stderr, "step %lld: %.5f\n", static_cast<long long>(step + 1),
                   losses.back().get<double>());
  }
  const Json result{
      {"steps", o.steps}, {"lr", t.lr}, {"warmup", t.warmup}, {"dense", o.dense}, {"losses", losses}};
  write_file_atomic(std::filesystem::path(o.out) / "losses.json", dump_json(result));
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  CLI::App app("Trains the small shape in f32 and writes what another implementation needs to do the same");
  stem::Options o;
  app.add_option("shard", o.shard, "tokens of a vocabulary of at most 8,192 (stem data)")->required();
  app.add_option("out", o.out, "folder to write")->required();
  app.add_option("--steps", o.steps, "optimizer steps")->check(CLI::Range(1, 1000000));
  app.add_option("--tokens-per-step", o.tokens_per_step, "tokens in a batch, a multiple of 256")
      ->check(CLI::Range(256, 1 << 20));
  app.add_flag("--dense", o.dense, "no STEM layer");
  CLI11_PARSE(app, argc, argv);
  try {
    stem::run(o);
  } catch (const stem::Error& e) {
    std::fprintf(stderr, "loss_parity_run: %s\n", e.what());
    return 1;
  }
}
