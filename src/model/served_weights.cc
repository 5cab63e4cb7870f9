#include "model/served_weights.h"

#include <cstring>
#include <vector>

#include "core/workspace.h"
#include "ops/checks.h"

namespace stem {
namespace {

class Packing {
 public:
  Packing(const Context& context, const ModelConfig& config, const WeightsFile& file)
      : kernels_(kernels_of(context).served), config_(config), file_(file) {}

  ServedWeights all() {
    const ModelConfig& c = config_;
    const std::int64_t q = c.heads * c.head_width, kv = c.kv_heads * c.head_width;
    ServedWeights weights;
    for (std::int64_t l = 0; l < c.layers; ++l) {
      const std::string layer = "model.layers." + std::to_string(l) + ".";
      const auto part = [&](const char* name, std::int64_t rows, std::int64_t cols) {
        return file_.matrix(layer + name + ".weight", rows, cols).stored;
      };
      const StoredMatrix queries = part("self_attn.q_proj", q, c.width),
                         keys = part("self_attn.k_proj", kv, c.width),
                         values = part("self_attn.v_proj", kv, c.width);
      LayerWeights w;
      if (c.qk_norm) {
        w.qk = pack({queries, keys});
        w.v = pack({values});
      } else {
        w.qkv = pack({queries, keys, values});
      }
      w.o = pack({part("self_attn.o_proj", c.width, q)});
      std::vector<StoredMatrix> gate_up;
      const FfnVariant ffn = c.ffn_of(l);
      if (ffn != FfnVariant::stem_gate) gate_up.push_back(part("mlp.gate_proj", c.ffn, c.width));
      if (ffn != FfnVariant::stem) gate_up.push_back(part("mlp.up_proj", c.ffn, c.width));
      w.gate_up = pack(gate_up);
      w.down = pack({part("mlp.down_proj", c.width, c.ffn)});
      weights.layers.push_back(w);
    }
    weights.head = pack({file_.matrix(c.tied ? kEmbeddingName : "lm_head.weight", c.vocab, c.width).stored});
    if (!c.tied) weights.embedding = pack({file_.matrix(kEmbeddingName, c.vocab, c.width).stored});
    weights.bytes = bytes_;
    weights.memory = memory_;
    return weights;
  }

 private:
  // One matrix below the other.
  Weight pack(const std::vector<StoredMatrix>& parts) {
    StoredMatrix whole = parts.front();
    if (parts.size() > 1) whole = stack(parts);
    const std::size_t bytes = kernels_.bytes(whole.format, whole.rows, whole.cols);
    void* const packed = memory_->bytes(bytes);
    bytes_ += bytes;
    kernels_.pack(packed, whole);
    return {{}, {whole.format, whole.rows, whole.cols, packed}};
  }

  StoredMatrix stack(const std::vector<StoredMatrix>& parts) {
    StoredMatrix whole{parts.front().format, 0, parts.front().cols, nullptr};
    for (const StoredMatrix& part : parts) {
      whole.rows += part.rows;
      if (stored_row_bytes(part.format, part.cols) > stored_row_bytes(whole.format, whole.cols))
        whole.format = part.format;
    }
    const std::int64_t bytes = stored_row_bytes(whole.format, whole.cols);
    stacked_.resize(static_cast<std::size_t>(whole.rows * bytes));
    std::byte* to = stacked_.data();
    std::vector<float> values(static_cast<std::size_t>(whole.cols));
    for (const StoredMatrix& part : parts) {
      if (part.format == whole.format) {
        std::memcpy(to, part.data, static_cast<std::size_t>(part.rows * bytes));
        to += part.rows * bytes;
        continue;
      }
      for (std::int64_t r = 0; r < part.rows; ++r, to += bytes) {
        read_row(part.format, part.row(r), values);
        store_row(whole.format, values, to);
      }
    }
    whole.data = stacked_.data();
    return whole;
  }

  const ServedKernels& kernels_;
  const ModelConfig& config_;
  const WeightsFile& file_;
  // Few large blocks: most matrices are smaller than the pages that suit a stream of them.
  std::shared_ptr<Workspace> memory_ = std::make_shared<Workspace>();
  std::size_t bytes_ = 0;
  std::vector<std::byte> stacked_;
};

}  // namespace

ServedWeights served_weights(const Context& context, const ModelConfig& config, const WeightsFile& file) {
  require(!config.has_experts(), "mixtures of experts are not served");
  return Packing(context, config, file).all();
}

}  // namespace stem
