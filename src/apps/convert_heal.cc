#include "apps/convert_heal.h"

#include <algorithm>

#include "apps/model_directory.h"
#include "apps/run_files.h"
#include "apps/train_run.h"
#include "data/token_shard.h"
#include "io/digest.h"
#include "io/file.h"
#include "secure/manifest.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kTokensPerStep = 2048;
constexpr std::int64_t kCheckpointSteps = 100, kLongestWarmup = 100;
// Of the difference of residual streams beside KL, where the teacher has streams of that shape: 4 % less KL
// after 80,000 tokens of healing SmolLM2-135M than without; 1: 2 % less.
constexpr double kStreams = 20.0;

// Halves of the sequences as documents, all of one length that divides a step: none is cut. A start token is
// read but is nobody's target.
TokenShard shard_of(std::span<const std::int32_t> text, std::int64_t sequence, const std::string& digest) {
  TokenShard shard;
  shard.tokenizer_digest = digest;
  const std::int64_t half = sequence / 2;
  for (std::int64_t first = 0; first + sequence <= std::ssize(text); first += sequence) {
    for (const std::int64_t from : {std::int64_t{1}, half}) {
      const auto ids =
          text.subspan(static_cast<std::size_t>(first + from), static_cast<std::size_t>(half - 1));
      shard.append(text[static_cast<std::size_t>(first)], {ids.begin(), ids.end()},
                   std::vector<std::uint8_t>(ids.size(), 1), false);
    }
  }
  return shard;
}

void write_data(const fs::path& dir, const fs::path& model, std::span<const std::int32_t> text,
                std::int64_t sequence) {
  fs::create_directories(dir);
  const std::string tokenizer = read_file(model / kTokenizerFile);
  write_file_atomic(dir / kTokenizerFile, tokenizer);
  copy_tokenizer_config(model, dir);
  const TokenShard train = shard_of(text, sequence, to_hex(sha256(tokenizer)));
  TokenShard last = shard_of(text.last(static_cast<std::size_t>(sequence)), sequence, train.tokenizer_digest);
  save_shard(dir / kTrainTokens, train);
  save_shard(dir / kHeldOutTokens, last);  // a run wants one; the conversion judges on its own text
}

std::string frozen(const ModelConfig& c, HealScope scope) {
  const auto learns = [&](const std::string& name, TensorKind kind) {
    if (scope == HealScope::all) return kind != TensorKind::embedding;
    for (const std::int64_t l : c.stem_layers) {
      const std::string mlp = fmt::format("model.layers.{}.mlp.", l);
      if (name == mlp + "gate_proj.weight" || name == mlp + "down_proj.weight") return true;
    }
    return false;
  };
  std::string names = c.tied ? "" : "model.embed_tokens.weight";
  for_each_tensor(c, DenseTensors::layout(c), [&](const std::string& name, Out, TensorKind kind) {
    if (!learns(name, kind)) names += (names.empty() ? "" : ",") + name;
  });
  return names;
}

}  // namespace

std::string_view name_of(HealScope scope) {
  return scope == HealScope::all ? "all" : "ffn";
}

void check_teacher(const fs::path& model, const fs::path& teacher, std::int64_t sequence) {
  const ModelConfig of_model = read_config(model), c = read_config(teacher);
  const std::string file = (teacher / kConfigFile).string();
  if (c.vocab != of_model.vocab)
    fail(ErrorCode::kMismatch, "--teacher: {}: vocab_size: expected {} ({}'s), found {}", file,
         of_model.vocab, model.string(), c.vocab);
  if (c.max_positions < sequence)
    fail(ErrorCode::kMismatch,
         "--teacher: {}: max_position_embeddings: expected at least {} (--sequence), found {}", file,
         sequence, c.max_positions);
  if (!same_ids(teacher, model))
    fail(ErrorCode::kMismatch,
         "--teacher: {}: expected the tokenizer of {}, found another: its ids stand for other text",
         (teacher / kTokenizerFile).string(), model.string());
}

void heal(Runtime& runtime, const fs::path& converted, const fs::path& teacher, const fs::path& out,
          std::span<const std::int32_t> text, std::int64_t sequence, double row_rms, const FirstState* first,
          const HealSettings& heal, bool quiet) {
  const ModelConfig c = read_config(converted), of_teacher = read_config(teacher);
  const fs::path data = out.string() + ".data", run = run_directory(out);
  Settings s;
  const std::int64_t half = sequence / 2, per_step = std::max<std::int64_t>(kTokensPerStep / half, 1) * half;
  s.train.steps = (heal.tokens + per_step - 1) / per_step;
  s.train.batch.tokens_per_step = per_step;
  s.train.batch.max_sequence = half;
  s.train.lr = heal.lr;
  s.train.table_lr = heal.row_lr * row_rms;
  s.train.warmup = std::clamp<std::int64_t>(
      s.train.steps / 20, std::min<std::int64_t>(10, std::max<std::int64_t>(s.train.steps / 2, 1)),
      kLongestWarmup);
  s.train.floor = 0.05;
  s.train.decay = 0.0;
  s.train.freeze = frozen(c, heal.scope);
  s.train.fixed_first = first != nullptr;
  s.train.teacher = teacher.string();
  if (of_teacher.layers == c.layers && of_teacher.width == c.width) s.train.teacher_streams = kStreams;
  s.eval_every = 0;
  s.checkpoint_every = kCheckpointSteps;
  s.keep_checkpoints = 1;
  const bool begun = fs::exists(run / kCheckpoints / kLatest);
  if (!begun) write_data(data, converted, text, sequence);
  RunOptions options{begun, quiet, begun ? fs::path() : converted};
  if (first)
    options.adjust = [first](const Context& context, Model& model) { first->restore(context, model); };
  train_run(runtime, data, out, s, options);
}

}  // namespace stem
