#include "apps/train_plan.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>

#include "apps/model_directory.h"
#include "core/clock.h"
#include "core/error.h"
#include "io/file.h"
#include "model/model_files.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/moe.h"

namespace stem {
namespace {

constexpr double kZipfExponent = 1.1;
// The program, its libraries and the products' generated code, measured on a model of next to nothing.
constexpr double kProgramBytes = 30e6;
constexpr double kShapeSeconds = 0.18;  // of measuring, for each shape
constexpr double kShapeFlops = 4e9;     // most that one forward may take
constexpr std::int64_t kMostRows = 2048, kMostOut = 32768;

double bytes_of(DType dtype, double count) {
  return static_cast<double>(size_of(dtype)) * count;
}

// One product of a layer or of the head, and how often a token passes it.
struct Product {
  std::string name;
  std::int64_t in = 0, out = 0;
  double times = 0;
};

std::vector<Product> products_of(const ModelConfig& c) {
  std::vector<Product> all{
      {"q, k, v", c.width, c.qkv_width(), static_cast<double>(c.layers)},
      {"attention output", c.heads * c.head_width, c.width, static_cast<double>(c.layers)}};
  double two = 0, one = 0, mixtures = 0;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const FfnVariant ffn = c.ffn_of(l);
    if (c.is_mixture(l))
      ++mixtures;
    else
      ++(ffn == FfnVariant::stem || ffn == FfnVariant::stem_gate ? one : two);
  }
  if (two > 0) all.push_back({"gate and up", c.width, 2 * c.ffn, two});
  if (one > 0) all.push_back({"gate alone", c.width, c.ffn, one});
  if (two + one > 0) all.push_back({"down", c.ffn, c.width, two + one});
  if (mixtures > 0) {
    const ExpertShape e = c.expert_shape();
    const double passes = mixtures * static_cast<double>(e.chosen);
    all.push_back({"experts' gate and up", c.width, 2 * e.width, passes});
    all.push_back({"experts' down", e.width, c.width, passes});
  }
  all.push_back({"head", c.width, c.vocab, 1});
  return all;
}

// What forward.cc's allocate_activations keeps for one token: LayerSaved of every layer, then the ends.
double activation_bytes(const ModelConfig& c, Precision p, double n) {
  const auto d = static_cast<double>(c.width), f = static_cast<double>(c.ffn);
  const auto attended = static_cast<double>(c.heads * c.head_width);
  const ExpertShape e = c.expert_shape();
  double wide = d + 1, narrow = d;  // x, inv_rms_final; normed_final
  for (std::int64_t l = 0; l < c.layers; ++l) {
    wide += 2 * d + 2 + static_cast<double>(c.heads);
    narrow += 2 * d + static_cast<double>(c.qkv_width()) + attended;
    if (c.qk_norm) wide += static_cast<double>((c.heads + c.kv_heads) * (c.head_width + 1));
    if (c.is_mixture(l)) {  // ExpertsSaved: input, gate and up, product, output of every chosen expert
      const auto chosen = static_cast<double>(e.chosen), f_expert = static_cast<double>(e.width);
      narrow += (chosen + static_cast<double>(e.experts) * kExpertAlignment / n) * (2 * d + 3 * f_expert);
      wide += 3 * chosen + (c.variant == FfnVariant::moe ? static_cast<double>(e.experts) + chosen + 1 : 0);
    } else {
      const FfnVariant ffn = c.ffn_of(l);
      narrow += (ffn == FfnVariant::stem || ffn == FfnVariant::stem_gate ? 2 : 3) * f;
    }
  }
  return n * (bytes_of(p.wide, wide) + bytes_of(p.narrow, narrow));
}

// What backward takes on top: the residual gradient, then the larger of a chunk of logits and a layer's
// gradients.
double scratch_bytes(const ModelConfig& c, Precision p, std::int64_t n) {
  const auto tokens = static_cast<double>(n), d = static_cast<double>(c.width),
             f = static_cast<double>(c.ffn), vocab = static_cast<double>(c.vocab);
  // lm_head_loss_forward_backward: a chunk of logits, the gradients of four, and the head packed for both of
  // its products where the machine has tiles for bf16.
  const std::int64_t chunk = std::min(n, lm_head_chunk_rows(c.vocab, p.wide));
  double logits = bytes_of(p.wide, static_cast<double>(chunk) * vocab);
  if (p.narrow != p.wide)
    logits += bytes_of(p.narrow, static_cast<double>(std::min(n, 4 * chunk)) * vocab + 2 * vocab * d);
  const ExpertShape e = c.expert_shape();
  const double hidden = std::max(3 * f, 3 * static_cast<double>(e.chosen * e.width) + 2 * d);
  const double layer = tokens * bytes_of(p.narrow, hidden + 2 * d);
  return tokens * (bytes_of(p.wide, d) + bytes_of(p.narrow, d)) + std::max(logits, layer);
}

// What forward.cc's allocate_forward_activations takes for n tokens of a teacher, of whatever variant.
double teacher_pass_bytes(const ModelConfig& c, Precision p, double n) {
  const auto d = static_cast<double>(c.width), f = static_cast<double>(c.ffn);
  const auto attended = static_cast<double>(c.heads * c.head_width);
  double narrow = 3 * d + static_cast<double>(c.qkv_width()) + attended + 3 * f, wide = d + 1;
  if (c.qk_norm) wide += static_cast<double>((c.heads + c.kv_heads) * c.head_width);
  if (c.has_experts()) {
    const ExpertShape e = c.expert_shape();
    const auto chosen = static_cast<double>(e.chosen), f_expert = static_cast<double>(e.width);
    narrow += (chosen + static_cast<double>(e.experts) * kExpertAlignment / n) * (2 * d + 3 * f_expert);
    wide += 3 * chosen + static_cast<double>(e.experts) + 1;
  }
  return n * (bytes_of(p.wide, wide) + bytes_of(p.narrow, narrow));
}

// What stays of a teacher while the student learns: weights, normed states, streams where they are learnt, a
// chunk of its logits and for bf16 its packed head. Its table stays in its file.
double teacher_bytes(const ModelConfig& c, Precision p, std::int64_t n, bool streams) {
  const auto d = static_cast<double>(c.width), vocab = static_cast<double>(c.vocab);
  const auto dense = static_cast<double>(DenseTensors::layout(c).flat.size());
  const std::int64_t chunk = std::min(n, lm_head_chunk_rows(c.vocab, p.wide));
  double bytes = bytes_of(p.wide, dense + (c.tied ? 0 : vocab * d) + static_cast<double>(chunk) * vocab) +
                 bytes_of(p.narrow, static_cast<double>(n) * d);
  if (p.narrow != p.wide) bytes += bytes_of(p.narrow, dense + vocab * d);
  if (streams) bytes += bytes_of(p.wide, static_cast<double>((c.layers + 1) * n) * d);
  return bytes;
}

// Values of all tensors that train, as the optimizer sees them, and of the matrices that the backward makes
// gradients of: the same, but where half of a matrix is frozen.
struct Trained {
  double moments = 0, gradients = 0;
};
Trained trained_values(const ModelConfig& c, const Freeze& freeze) {
  Trained trained;
  const DenseTensors layout = DenseTensors::layout(c);
  std::size_t i = 0;
  for_each_tensor(c, layout, [&](const std::string&, const Out& view, TensorKind) {
    if (freeze.dense.empty() || !freeze.dense[i]) trained.moments += static_cast<double>(view.size());
    ++i;
  });
  DenseViews views = without_frozen(c, layout, freeze);
  for_each_block(views, [&](const Out& view) { trained.gradients += static_cast<double>(view.size()); });
  return trained;
}

}  // namespace

double expected_distinct_tokens(std::int64_t vocab, std::int64_t n) {
  double total = 0, expected = 0;
  for (std::int64_t r = 1; r <= vocab; ++r) total += std::pow(static_cast<double>(r), -kZipfExponent);
  for (std::int64_t r = 1; r <= vocab; ++r) {
    const double p = std::pow(static_cast<double>(r), -kZipfExponent) / total;
    expected += p < 1 ? -std::expm1(static_cast<double>(n) * std::log1p(-p)) : 1.0;
  }
  return expected;
}

std::optional<ModelConfig> teacher_config(const Settings& settings) {
  if (settings.train.teacher.empty()) return std::nullopt;
  return read_config(settings.train.teacher);
}

TrainPlan plan_training(const Settings& settings, const ModelConfig& c, Precision p, double tokens,
                        const ModelConfig* teacher) {
  TrainPlan plan;
  const Freeze freeze(settings.train.freeze, c);
  const Trained trained = trained_values(c, freeze);
  const std::int64_t n = settings.train.batch.tokens_per_step;
  const auto d = static_cast<double>(c.width), vocab = static_cast<double>(c.vocab);
  plan.account = account(c);
  plan.tokens = tokens > 0 ? tokens : static_cast<double>(settings.train.steps) * static_cast<double>(n);
  const double key = 4.0 * static_cast<double>(c.layers * c.heads * c.head_width);
  const auto sequence = static_cast<double>(std::min(settings.train.batch.max_sequence, n));
  plan.attention_flops_mean = key * (sequence + 1) / 2;
  plan.attention_flops_full = key * sequence;
  plan.expected_distinct = expected_distinct_tokens(c.vocab, n);
  plan.table_token_bytes = bytes_of(DType::bf16, static_cast<double>(c.table_shape().record()));

  // DenseTensors: everything but the table and an untied embedding, and the norms that `account` leaves out.
  const double norms = static_cast<double>(2 * c.layers + 1) * d;
  const double dense = static_cast<double>(plan.account.dense_parameters) - (c.tied ? 0 : vocab * d) + norms;
  const double embedding = c.tied ? 0 : vocab * d;
  const auto table = static_cast<double>(plan.account.table_parameters);
  const double table_row = freeze.table ? 0 : static_cast<double>(c.table_shape().record());
  const double embedding_row = c.tied || freeze.embedding ? 0 : d, row = table_row + embedding_row;
  const auto add = [&](const char* name_key, const std::string& name, double bytes) {
    if (bytes > 0) plan.memory.push_back({name_key, name, bytes});
    plan.memory_bytes += bytes;
  };
  add("dense_weights", "dense weights, f32", bytes_of(p.wide, dense));
  add("narrow_copy", fmt::format("their {} copy for products", name_of(p.narrow)),
      p.narrow == p.wide ? 0 : bytes_of(p.narrow, dense));
  add("dense_gradients", "dense gradients, f32", bytes_of(p.wide, trained.gradients));
  add("dense_moments", "dense moments m and v", bytes_of(p.wide, 2 * trained.moments));
  add("embedding", "untied embedding, m and v", bytes_of(p.wide, embedding + 2 * vocab * embedding_row));
  add("table", "table, f32", bytes_of(p.wide, table));
  add("table_moments", "table moments m and v", bytes_of(p.wide, 2 * vocab * table_row));
  add("row_gradients", fmt::format("row gradients of about {:.0f} distinct tokens", plan.expected_distinct),
      bytes_of(p.wide, plan.expected_distinct * row));
  const std::int64_t micro = std::max<std::int64_t>(1, n / settings.train.accumulate);
  const double activations = activation_bytes(c, p, static_cast<double>(micro));
  double scratch = scratch_bytes(c, p, micro);
  if (teacher != nullptr) {
    plan.teacher_flops = account(*teacher).flops_per_token;
    add("teacher", "teacher, its logits of one chunk",
        teacher_bytes(*teacher, p, micro, settings.train.teacher_streams > 0));
    // Its pass is over, and its memory free again, when the model's begins.
    scratch = std::max(scratch, teacher_pass_bytes(*teacher, p, static_cast<double>(micro)) - activations);
  }
  add("activations", fmt::format("activations of {} tokens", micro), activations);
  add("scratch", "scratch of the backward pass", scratch);
  // last_step of table and embedding, update counts, frequencies and what the rotary table holds
  add("program", "program, counts",
      kProgramBytes + 8 * vocab * 4 + bytes_of(p.wide, static_cast<double>(c.max_positions * c.head_width)));

  // The update reads and writes weight, m and v; the gradient is cleared, written, read for its norm and
  // read.
  const double wide = bytes_of(p.wide, 1), narrow = p.narrow == p.wide ? 0 : bytes_of(p.narrow, 1);
  plan.optimizer_bytes = trained.moments * (10 * wide + narrow) + plan.expected_distinct * row * 10 * wide;
  return plan;
}

MachineRates measure_machine(Runtime& runtime, const ModelConfig& config, Precision precision,
                             std::int64_t tokens_per_step) {
  const Context context = runtime.training();
  MachineRates rates;
  double total = 0, seconds = 0;
  const std::vector<Product> products = products_of(config);
  for (const Product& p : products) total += static_cast<double>(p.in * p.out) * p.times;
  for (const Product& p : products) {
    const std::int64_t out = std::min(p.out, kMostOut);
    const double row_flops = 2.0 * static_cast<double>(p.in * out);
    const std::int64_t rows = std::clamp(static_cast<std::int64_t>(kShapeFlops / row_flops), std::int64_t{32},
                                         std::min(kMostRows, tokens_per_step));
    const Tensor x(precision.narrow, rows, p.in), w(precision.narrow, out, p.in),
        y(precision.narrow, rows, out);
    const Tensor d_x(precision.narrow, rows, p.in), d_w(precision.wide, out, p.in);
    const auto once = [&] {
      linear_forward(context, y, x, Weight{w});
      linear_backward(context, d_x, d_w, y, x, Weight{w});
    };
    once();  // makes the products' code
    std::vector<double> times;
    for (double spent = 0; spent < kShapeSeconds || times.size() < 2; spent += times.back()) {
      const auto start = std::chrono::steady_clock::now();
      once();
      times.push_back(seconds_since(start));
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    const double rate = 3.0 * row_flops * static_cast<double>(rows) / times[times.size() / 2];
    const double share = static_cast<double>(p.in * p.out) * p.times / total;
    rates.shapes.push_back({p.name, rows, p.in, out, share, rate});
    seconds += share / rate;
  }
  rates.gemm_flops_per_s = 1.0 / seconds;

  constexpr std::int64_t kRows = 64, kCols = 1 << 18;  // 64 MB in, 64 MB out: beyond the caches
  const Tensor from(DType::f32, kRows, kCols), to(DType::f32, kRows, kCols);
  double best = 1e30;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    convert(context, to, from);
    best = std::min(best, seconds_since(start));
  }
  rates.bytes_per_s = 8.0 * kRows * kCols / best;
  return rates;
}

StepTime step_time(const TrainPlan& plan, const MachineRates& rates, std::int64_t tokens_per_step,
                   double gemm_share) {
  StepTime time;
  time.products = plan.training_flops() * static_cast<double>(tokens_per_step) / rates.gemm_flops_per_s;
  time.other = time.products * (1.0 / gemm_share - 1.0);
  time.update = plan.optimizer_bytes / rates.bytes_per_s;
  return time;
}

double count_from_text(std::string_view text, std::string_view option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const double scale = unit.empty()                 ? 1
                       : unit == "k" || unit == "K" ? 1e3
                       : unit == "M"                ? 1e6
                       : unit == "B" || unit == "G" ? 1e9
                       : unit == "T"                ? 1e12
                                                    : 0;
  if (error != std::errc() || scale == 0 || !(value * scale >= 1) || !(value * scale <= 1e18))
    fail(ErrorCode::kUsage, "{}: expected a number of tokens such as 20M, 100B or 1e9, found \"{}\"", option,
         text);
  return std::round(value * scale);
}

}  // namespace stem
