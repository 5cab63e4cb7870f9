// GGUF files: architecture keys, tensor names and row orders as llama.cpp's converter writes them.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "convert/import.h"
#include "convert/rotary_rows.h"
#include "core/error.h"
#include "io/gguf.h"
#include "text/tokenizer_vocab.h"

namespace stem {
namespace {

constexpr std::int64_t kMost = 1 << 24;

// Files hold f32; what was meant is the shortest decimal that rounds to it: 1e-5, not 9.99999974738e-6.
double meant(double value) {
  return std::stod(fmt::format("{}", static_cast<float>(value)));
}

// What llama.cpp's converter does with an architecture.
struct Architecture {
  bool qkv_bias = false, qk_norm = false;
  bool pairs = false;  // rows of q and k are reordered for rotation in neighbouring pairs
};

Architecture architecture_of(const std::string& name, const Gguf& file) {
  if (name == "llama") return {.pairs = true};
  if (name == "qwen2") return {.qkv_bias = true};
  if (name == "qwen3") return {.qk_norm = true};
  fail(ErrorCode::kMismatch, "{}: general.architecture: expected llama, qwen2 or qwen3, found \"{}\"",
       file.path(), name);
}

// rope_freqs.weight holds divisors of the frequencies. Llama 3's follow from four numbers, of which files
// keep none; `factor` is the largest divisor, and the others are the same in every model that was published.
RopeScaling llama3_scaling(const Gguf& file, const GgufTensor& tensor, const ModelConfig& c) {
  std::vector<float> divisors(static_cast<std::size_t>(tensor.elements()));
  if (tensor.elements() != c.head_width / 2)
    fail(ErrorCode::kMismatch, "{}: {}: expected {} values (half a head), found {}", file.path(), tensor.name,
         c.head_width / 2, tensor.described());
  file.read_rows(tensor, 0, divisors);
  const double factor = static_cast<double>(*std::max_element(divisors.begin(), divisors.end()));
  const RopeScaling s{RopeScaling::Kind::llama3, factor, 1.0, 4.0, 8192.0};
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double f =
        std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_width));
    const double expected = f / s.scaled(f), found = static_cast<double>(divisors[i]);
    if (!(std::abs(found - expected) <= 1e-3 * expected))
      fail(ErrorCode::kMismatch,
           "{}: {}[{}]: expected {:.6g} (Llama 3's scaling by {:.6g}), found {:.6g}: only this scaling is "
           "known",
           file.path(), tensor.name, i, expected, factor, found);
  }
  return s;
}

RopeScaling rope_scaling_of(const Gguf& file, const std::string& a, const ModelConfig& c) {
  const GgufTensor* const divisors = file.find_tensor("rope_freqs.weight");
  const std::string* const type = file.find_text(a + ".rope.scaling.type");
  if (type == nullptr || *type == "none")
    return divisors == nullptr ? RopeScaling{} : llama3_scaling(file, *divisors, c);
  if (*type != "linear" || divisors != nullptr)
    fail(ErrorCode::kMismatch, "{}: {}.rope.scaling.type: expected none or linear, found \"{}\"", file.path(),
         a, *type);
  return {RopeScaling::Kind::linear, meant(file.number(a + ".rope.scaling.factor"))};
}

ModelConfig config_of(const Gguf& file, const std::string& a, const Architecture& kind) {
  const auto extent = [&](const char* key) { return file.integer(a + "." + key, 1, kMost); };
  const auto expect_equal = [&](const char* key, std::int64_t expected) {
    const auto found = file.find_integer(a + "." + key);
    if (found && *found != expected)
      fail(ErrorCode::kMismatch, "{}: {}.{}: expected {}, found {}", file.path(), a, key, expected, *found);
  };
  expect_equal("expert_count", 0);
  ModelConfig c;
  c.variant = FfnVariant::dense;
  c.vocab = file.tensor("token_embd.weight").rows();
  c.width = extent("embedding_length");
  c.layers = file.integer(a + ".block_count", 1, 4096);
  c.heads = extent("attention.head_count");
  c.kv_heads = file.find_integer(a + ".attention.head_count_kv", 1, kMost).value_or(c.heads);
  if (!file.has(a + ".attention.key_length") && c.width % c.heads != 0)
    fail(ErrorCode::kMismatch,
         "{}: {}.attention.head_count: expected a divisor of embedding_length = {}, found {}", file.path(), a,
         c.width, c.heads);
  c.head_width = file.find_integer(a + ".attention.key_length", 1, kMost).value_or(c.width / c.heads);
  expect_equal("attention.value_length", c.head_width);
  expect_equal("rope.dimension_count", c.head_width);
  c.ffn = extent("feed_forward_length");
  c.max_positions = extent("context_length");
  c.norm_eps = meant(file.number(a + ".attention.layer_norm_rms_epsilon"));
  c.rope_theta = meant(file.find_number(a + ".rope.freq_base").value_or(10000.0));
  c.tied = file.find_tensor("output.weight") == nullptr;
  c.qkv_bias = kind.qkv_bias;
  c.qk_norm = kind.qk_norm;
  c.validate(file.path());
  c.rope_scaling = rope_scaling_of(file, a, c);
  return c;
}

std::string gguf_name(const std::string& name) {
  static const std::map<std::string, std::string, std::less<>> kEnds = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"lm_head.weight", "output.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"input_layernorm.weight", "attn_norm.weight"},
      {"self_attn.q_proj.weight", "attn_q.weight"},
      {"self_attn.k_proj.weight", "attn_k.weight"},
      {"self_attn.v_proj.weight", "attn_v.weight"},
      {"self_attn.q_proj.bias", "attn_q.bias"},
      {"self_attn.k_proj.bias", "attn_k.bias"},
      {"self_attn.v_proj.bias", "attn_v.bias"},
      {"self_attn.q_norm.weight", "attn_q_norm.weight"},
      {"self_attn.k_norm.weight", "attn_k_norm.weight"},
      {"self_attn.o_proj.weight", "attn_output.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"mlp.gate_proj.weight", "ffn_gate.weight"},
      {"mlp.up_proj.weight", "ffn_up.weight"},
      {"mlp.down_proj.weight", "ffn_down.weight"},
  };
  if (const auto whole = kEnds.find(name); whole != kEnds.end()) return whole->second;
  const std::string layers = "model.layers.";
  const std::size_t dot = name.find('.', layers.size());
  return "blk." + name.substr(layers.size(), dot - layers.size()) + "." + kEnds.at(name.substr(dot + 1));
}

Tokenizer tokenizer_of(const Gguf& file) {
  VocabularyPieces p;
  const std::string t = "tokenizer.ggml.";
  p.model = file.text(t + "model");
  if (const auto* pre = file.find_text(t + "pre")) p.pre = *pre;
  p.tokens = file.strings(t + "tokens");
  if (const auto* merges = file.find_strings(t + "merges")) p.merges = *merges;
  if (const auto scores = file.find_numbers(t + "scores"))
    for (const double s : *scores) p.scores.push_back(static_cast<float>(s));
  if (const auto types = file.find_integers(t + "token_type"))
    for (const std::int64_t type : *types)
      p.types.push_back(static_cast<std::int32_t>(std::clamp<std::int64_t>(type, 0, 100)));
  const auto id = [&](const char* key) -> std::optional<std::int32_t> {
    const auto found = file.find_integer(t + key, 0, kMost);
    return found ? std::optional(static_cast<std::int32_t>(*found)) : std::nullopt;
  };
  p.bos = id("bos_token_id");
  p.eos = id("eos_token_id");
  p.unk = id("unknown_token_id");
  p.add_bos = file.find_flag(t + "add_bos_token").value_or(p.model == "llama");
  p.add_space_prefix = file.find_flag(t + "add_space_prefix").value_or(true);
  if (const auto* text = file.find_text("tokenizer.chat_template")) p.chat_template = *text;
  return tokenizer_from_pieces(p, file.path());
}

}  // namespace

ImportedModel import_gguf(const std::filesystem::path& path) {
  const Gguf file = Gguf::open(path);
  const std::string& name = file.text("general.architecture");
  const Architecture kind = architecture_of(name, file);
  const ModelConfig c = config_of(file, name, kind);

  // Every shape is checked before memory is taken.
  std::set<std::string> known{"rope_freqs.weight"};
  const DenseTensors layout = DenseTensors::layout(c);
  const auto check = [&](const std::string& tensor, std::int64_t rows, std::int64_t cols, bool vector) {
    const std::string theirs = gguf_name(tensor);
    const std::int64_t matrix[] = {rows, cols};
    file.expect(theirs, vector ? std::span(matrix).last(1) : std::span<const std::int64_t>(matrix));
    known.insert(theirs);
  };
  for_each_tensor(c, layout, [&](const std::string& tensor, const In& view, TensorKind of) {
    check(tensor, view.rows, view.cols, is_vector(of));
  });
  if (!c.tied) check("model.embed_tokens.weight", c.vocab, c.width, false);
  std::set<std::string> types;
  bool exact_in_bf16 = true;
  for (const GgufTensor& t : file.tensors()) {
    if (!known.contains(t.name))
      fail(ErrorCode::kMismatch, "{}: {}: a tensor that the architecture \"{}\" has no place for",
           file.path(), t.name, name);
    if (t.rows() > 1) types.emplace(name_of(t.type));
    exact_in_bf16 = exact_in_bf16 && (t.type == GgmlType::bf16 || t.rows() == 1);
  }

  ImportedModel imported{Model(c, {}, false), tokenizer_of(file),
                         fmt::format("GGUF, {}, {}", name, fmt::join(types, " and ")),
                         exact_in_bf16 ? DType::bf16 : DType::f32};
  const auto read = [&](const std::string& tensor, Out view) {
    file.read_rows(file.tensor(gguf_name(tensor)), 0,
                   {view.row<float>(0), static_cast<std::size_t>(view.size())});
  };
  for_each_tensor(c, imported.model.weights, [&](const std::string& tensor, Out view, TensorKind) {
    read(tensor, view);
    const bool turned = tensor.ends_with("q_proj.weight") || tensor.ends_with("k_proj.weight");
    if (kind.pairs && turned) halves_from_pairs(view, c.head_width);
  });
  if (!c.tied) read("model.embed_tokens.weight", imported.model.embedding);
  if (imported.tokenizer.vocab_size() > c.vocab)
    fail(ErrorCode::kMismatch,
         "{}: tokenizer.ggml.tokens: expected at most {} (rows of token_embd.weight), found {}", file.path(),
         c.vocab, imported.tokenizer.vocab_size());
  return imported;
}

}  // namespace stem
