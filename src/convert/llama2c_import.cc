// llama2.c checkpoints, version 0: seven integers, then f32 tensors in a fixed order.
// Source: https://github.com/karpathy/llama2.c
#include <array>
#include <limits>

#include "convert/import.h"
#include "convert/rotary_rows.h"
#include "core/error.h"
#include "io/file.h"

namespace stem {
namespace {

constexpr std::int64_t kHeaderBytes = 7 * 4;

ModelConfig config_of(const MappedFile& file) {
  const std::string name = file.path().string();
  if (file.size() < kHeaderBytes)
    fail(ErrorCode::kFormat, "{}: expected a model (GGUF, or llama2.c's header of {} bytes), found {} bytes",
         name, kHeaderBytes, file.size());
  std::array<std::int32_t, 7> h{};
  file.read_at(0, h.data(), sizeof h);
  constexpr const char* kNames[] = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                    "n_kv_heads", "vocab_size", "seq_len"};
  const bool tied = h[5] > 0;
  if (!tied && h[5] != std::numeric_limits<std::int32_t>::min()) h[5] = -h[5];
  for (std::size_t i = 0; i < h.size(); ++i) {
    if (h[i] < 1 || h[i] > (1 << 24))
      fail(ErrorCode::kFormat, "{}: {}: expected a number in [1, 16777216] (a llama2.c checkpoint), found {}",
           name, kNames[i], h[i]);
  }
  ModelConfig c;
  c.variant = FfnVariant::dense;
  c.width = h[0], c.ffn = h[1], c.layers = h[2], c.heads = h[3], c.kv_heads = h[4], c.vocab = h[5];
  c.max_positions = h[6];
  c.tied = tied;
  if (c.width % c.heads != 0)
    fail(ErrorCode::kFormat, "{}: n_heads: expected a divisor of dim = {}, found {}", name, c.width, c.heads);
  c.head_width = c.width / c.heads;
  c.validate(name);
  const std::int64_t kv = c.kv_heads * c.head_width;
  // Extents are below 2^24 and layers below 4,096, so that these products stay inside a double's integers.
  const double layer = static_cast<double>(2 * c.width + 2 * c.width * c.width + 2 * kv * c.width) +
                       3.0 * static_cast<double>(c.ffn) * static_cast<double>(c.width);
  const double floats = static_cast<double>(c.layers) * layer +
                        static_cast<double>((c.tied ? 1 : 2) * c.vocab) * static_cast<double>(c.width) +
                        static_cast<double>(c.width) +
                        static_cast<double>(c.max_positions) * static_cast<double>(c.head_width);
  if (floats * 4 + kHeaderBytes != static_cast<double>(file.size()))
    fail(ErrorCode::kFormat, "{}: expected {:.0f} bytes (for dim {}, {} layers, vocab_size {}), found {}",
         name, floats * 4 + kHeaderBytes, c.width, c.layers, c.vocab, file.size());
  return c;
}

}  // namespace

ImportedModel import_llama2c(const std::filesystem::path& path, const std::filesystem::path& tokenizer) {
  const MappedFile file(path);
  const ModelConfig c = config_of(file);
  ImportedModel imported{
      Model(c, {}, false),
      Tokenizer::from_llama2c(read_file(tokenizer), static_cast<std::int32_t>(c.vocab), tokenizer.string()),
      "llama2.c, F32", DType::f32};
  std::uint64_t offset = kHeaderBytes;
  const auto read = [&](Out to) {
    const auto bytes = static_cast<std::uint64_t>(to.size()) * sizeof(float);
    file.read_at(offset, to.row<float>(0), bytes);
    offset += bytes;
  };
  DenseTensors& w = imported.model.weights;
  const std::int64_t q = c.heads * c.head_width, kv = c.kv_heads * c.head_width;
  const auto each_layer = [&](auto tensor) {
    for (LayerTensors& layer : w.layers) tensor(layer);
  };
  read(c.tied ? w.head : imported.model.embedding.view);
  each_layer([&](LayerTensors& t) { read(t.attention_norm); });
  each_layer([&](LayerTensors& t) { read(t.qkv.slice_rows(0, q)); });
  each_layer([&](LayerTensors& t) { read(t.qkv.slice_rows(q, kv)); });
  each_layer([&](LayerTensors& t) { read(t.qkv.slice_rows(q + kv, kv)); });
  each_layer([&](LayerTensors& t) { read(t.o); });
  each_layer([&](LayerTensors& t) { read(t.ffn_norm); });
  each_layer([&](LayerTensors& t) { read(t.gate); });
  each_layer([&](LayerTensors& t) { read(t.down); });
  each_layer([&](LayerTensors& t) { read(t.up); });
  read(w.final_norm);
  offset += static_cast<std::uint64_t>(c.max_positions * c.head_width) * sizeof(float);  // cosines and sines
  if (!c.tied) read(w.head);
  each_layer([&](LayerTensors& t) { halves_from_pairs(t.qkv.slice_rows(0, q + kv), c.head_width); });
  return imported;
}

}  // namespace stem
