#include "model/config.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace stem {
namespace {

constexpr std::string_view kVariantNames[] = {"dense",         "stem",     "stem_gate",
                                              "stem_additive", "hash_moe", "moe"};
constexpr std::int64_t kMaxExtent = std::int64_t{1}
                                    << 24;  // far above any model; keeps products inside int64
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxExperts = 1024;
constexpr std::int64_t kMaxSeed = std::int64_t{1} << 53;  // exact in every reader of JSON

void check_range(std::string_view source, std::string_view field, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value < low || value > high) {
    fail(ErrorCode::kUsage, "{}: {}: expected a number in [{}, {}], found {}", source, field, low, high,
         value);
  }
}

void validate_experts(const ModelConfig& c, std::string_view source) {
  const ExpertShape shape = c.expert_shape();
  check_range(source, "num_local_experts", shape.experts, 1, kMaxExperts);
  check_range(source, "moe_intermediate_size", shape.width, 1, kMaxExtent);
  const bool hashed = c.variant == FfnVariant::hash_moe;
  if (shape.chosen < 1 || shape.chosen > (hashed ? 1 : shape.experts)) {
    fail(ErrorCode::kUsage, "{}: num_experts_per_tok: expected {} for ffn_variant {}, found {}", source,
         hashed ? "1" : fmt::format("a number in [1, num_local_experts = {}]", shape.experts),
         name_of(c.variant), shape.chosen);
  }
  const auto check_coefficient = [&](const char* field, double value) {
    if (!(value >= 0) || !(value <= 1e3))
      fail(ErrorCode::kUsage, "{}: {}: expected a number in [0, 1000], found {}", source, field, value);
  };
  check_coefficient("router_aux_loss_coef", c.experts.balance_loss);
  check_coefficient("router_z_loss_coef", c.experts.z_loss);
  check_range(source, "hash_seed", c.experts.hash_seed, 0, kMaxSeed);
}

}  // namespace

std::string_view name_of(FfnVariant variant) {
  return kVariantNames[static_cast<std::size_t>(variant)];
}

FfnVariant ffn_variant_from(std::string_view name, std::string_view source) {
  for (std::size_t i = 0; i < std::size(kVariantNames); ++i) {
    if (kVariantNames[i] == name) return static_cast<FfnVariant>(i);
  }
  fail(ErrorCode::kUsage, "{}: ffn_variant: expected one of {}, found {}", source,
       fmt::join(kVariantNames, ", "), shown(Json(std::string(name))));
}

std::int64_t ModelConfig::stem_index(std::int64_t layer) const {
  const auto found = std::find(stem_layers.begin(), stem_layers.end(), layer);
  return found == stem_layers.end() || !has_table() ? -1 : found - stem_layers.begin();
}

FfnVariant ModelConfig::ffn_of(std::int64_t layer) const {
  const bool listed = std::find(stem_layers.begin(), stem_layers.end(), layer) != stem_layers.end();
  return listed ? variant : FfnVariant::dense;
}

bool ModelConfig::is_mixture(std::int64_t layer) const {
  return has_experts() && ffn_of(layer) != FfnVariant::dense;
}

ExpertShape ModelConfig::expert_shape() const {
  if (!has_experts()) return {};
  const bool hashed = variant == FfnVariant::hash_moe;
  const auto or_default = [](std::int64_t value, std::int64_t own) { return value != 0 ? value : own; };
  return {or_default(experts.experts, hashed ? 16 : 8), or_default(experts.chosen, hashed ? 1 : 2),
          or_default(experts.width, hashed ? ffn : std::max<std::int64_t>(ffn / 2, 1))};
}

void ModelConfig::validate(std::string_view source) const {
  check_range(source, "vocab_size", vocab, 1, kMaxExtent);
  check_range(source, "hidden_size", width, 1, kMaxExtent);
  check_range(source, "num_hidden_layers", layers, 1, kMaxLayers);
  check_range(source, "num_attention_heads", heads, 1, kMaxExtent);
  check_range(source, "num_key_value_heads", kv_heads, 1, kMaxExtent);
  check_range(source, "head_dim", head_width, 1, kMaxExtent);
  check_range(source, "intermediate_size", ffn, 1, kMaxExtent);
  check_range(source, "max_position_embeddings", max_positions, 1, kMaxExtent);
  if (heads % kv_heads != 0) {
    fail(ErrorCode::kUsage,
         "{}: num_key_value_heads: expected a divisor of num_attention_heads = {}, found {}", source, heads,
         kv_heads);
  }
  if (head_width % 2 != 0) {
    fail(ErrorCode::kUsage, "{}: head_dim: expected an even number (rotary pairs), found {}", source,
         head_width);
  }
  if (!(norm_eps > 0) || !(norm_eps < 1)) {
    fail(ErrorCode::kUsage, "{}: rms_norm_eps: expected a number in (0, 1), found {}", source, norm_eps);
  }
  if (!(rope_theta > 1) || !(rope_theta < 1e12)) {
    fail(ErrorCode::kUsage, "{}: rope_theta: expected a number above 1, found {}", source, rope_theta);
  }
  std::set<std::int64_t> seen;
  for (const std::int64_t layer : stem_layers) {
    if (layer < 0 || layer >= layers) {
      fail(ErrorCode::kUsage, "{}: stem_layers: expected layers below num_hidden_layers = {}, found {}",
           source, layers, layer);
    }
    if (!seen.insert(layer).second) {
      fail(ErrorCode::kUsage, "{}: stem_layers: expected each layer once, found {} twice", source, layer);
    }
  }
  if (!std::is_sorted(stem_layers.begin(), stem_layers.end())) {
    fail(ErrorCode::kUsage, "{}: stem_layers: expected ascending layers, found [{}]", source,
         fmt::join(stem_layers, ", "));
  }
  if ((variant == FfnVariant::dense) != stem_layers.empty()) {
    fail(ErrorCode::kUsage, "{}: stem_layers: expected {} for ffn_variant {}, found [{}]", source,
         variant == FfnVariant::dense ? "none" : "at least one", name_of(variant),
         fmt::join(stem_layers, ", "));
  }
  if (has_experts()) validate_experts(*this, source);
}

std::vector<std::int64_t> stem_layers_from(std::string_view choice, std::int64_t layers,
                                           std::string_view source, std::int64_t first) {
  std::vector<std::int64_t> chosen;
  const auto every = [&](std::int64_t interval) {
    for (std::int64_t l = first; l < layers; l += interval) chosen.push_back(l);
  };
  if (choice == "none") return chosen;
  if (choice == "all") first = 0;
  if (choice == "third")
    every(3);
  else if (choice == "half")
    every(2);
  else if (choice == "full" || choice == "all")
    every(1);
  else {
    std::string_view rest = choice;
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      std::string_view word = rest.substr(0, comma);
      while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
      std::int64_t layer = 0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), layer);
      if (error != std::errc() || end != word.data() + word.size()) {
        fail(ErrorCode::kUsage,
             "{}: expected third, half, full, all, none or a list such as \"1,4\", found {}", source,
             shown(Json(std::string(choice))));
      }
      chosen.push_back(layer);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  if (chosen.empty()) {
    fail(ErrorCode::kUsage, "{}: \"{}\" of {} layers chooses none", source, choice, layers);
  }
  return chosen;
}

RopeScaling rope_scaling_from_json(const Json& json, std::string_view source) {
  RopeScaling s;
  if (json.is_null()) return s;
  const std::string name = fmt::format("{}: rope_scaling", source);
  if (!json.is_object())
    fail(ErrorCode::kFormat, "{}: expected null or an object, found {}", name, json.dump());
  const std::string type = get_string(json, json.contains("rope_type") ? "rope_type" : "type", name);
  const auto positive = [&](const char* key) {
    const double value = get_number(json, key, name);
    if (!(value > 0) || !(value < 1e9))
      fail(ErrorCode::kMismatch, "{}: {}: expected a number above 0, found {}", name, key, value);
    return value;
  };
  if (type == "default") return s;
  if (type != "linear" && type != "llama3")
    fail(ErrorCode::kMismatch, "{}: rope_type: expected default, linear or llama3, found \"{}\"", name, type);
  s.kind = type == "linear" ? RopeScaling::Kind::linear : RopeScaling::Kind::llama3;
  s.factor = positive("factor");
  if (s.kind == RopeScaling::Kind::linear) return s;
  s.low = positive("low_freq_factor");
  s.high = positive("high_freq_factor");
  s.original_positions = positive("original_max_position_embeddings");
  if (!(s.high > s.low))
    fail(ErrorCode::kMismatch, "{}: high_freq_factor: expected more than low_freq_factor = {}, found {}",
         name, s.low, s.high);
  return s;
}

namespace {

Json rope_scaling_to_json(const RopeScaling& s) {
  switch (s.kind) {
    case RopeScaling::Kind::none:
      break;
    case RopeScaling::Kind::linear:
      return {{"rope_type", "linear"}, {"factor", s.factor}};
    case RopeScaling::Kind::llama3:
      return {{"rope_type", "llama3"},
              {"factor", s.factor},
              {"low_freq_factor", s.low},
              {"high_freq_factor", s.high},
              {"original_max_position_embeddings", static_cast<std::int64_t>(s.original_positions)}};
  }
  return nullptr;
}

}  // namespace

Json config_to_json(const ModelConfig& c, std::string_view torch_dtype) {
  Json json{{"architectures", {"StemForCausalLM"}},
            {"model_type", "stem"},
            {"vocab_size", c.vocab},
            {"hidden_size", c.width},
            {"intermediate_size", c.ffn},
            {"num_hidden_layers", c.layers},
            {"num_attention_heads", c.heads},
            {"num_key_value_heads", c.kv_heads},
            {"head_dim", c.head_width},
            {"rms_norm_eps", c.norm_eps},
            {"rope_theta", c.rope_theta},
            {"rope_scaling", rope_scaling_to_json(c.rope_scaling)},
            {"max_position_embeddings", c.max_positions},
            {"tie_word_embeddings", c.tied},
            {"torch_dtype", torch_dtype},
            {"hidden_act", "silu"},
            {"ffn_variant", name_of(c.variant)},
            {"stem_layers", c.stem_layers}};
  if (c.qkv_bias) json["qkv_bias"] = true;
  if (c.qk_norm) json["qk_norm"] = true;
  if (c.has_experts()) {
    const ExpertShape shape = c.expert_shape();
    json["num_local_experts"] = shape.experts;
    json["num_experts_per_tok"] = shape.chosen;
    json["moe_intermediate_size"] = shape.width;
  }
  if (c.variant == FfnVariant::hash_moe) json["hash_seed"] = c.experts.hash_seed;
  if (c.variant == FfnVariant::moe) {
    json["router_aux_loss_coef"] = c.experts.balance_loss;
    json["router_z_loss_coef"] = c.experts.z_loss;
  }
  return json;
}

ModelConfig config_from_json(const Json& json, std::string_view source) {
  if (const std::string type = get_string(json, "model_type", source); type != "stem") {
    fail(ErrorCode::kMismatch, "{}: model_type: expected \"stem\", found \"{}\"", source, type);
  }
  ModelConfig c;
  if (json.contains("rope_scaling")) c.rope_scaling = rope_scaling_from_json(json["rope_scaling"], source);
  const auto extent = [&](const char* key) { return get_int(json, key, source, 1, kMaxExtent); };
  c.vocab = extent("vocab_size");
  c.width = extent("hidden_size");
  c.ffn = extent("intermediate_size");
  c.layers = get_int(json, "num_hidden_layers", source, 1, kMaxLayers);
  c.heads = extent("num_attention_heads");
  c.kv_heads = json.contains("num_key_value_heads") ? extent("num_key_value_heads") : c.heads;
  if (!json.contains("head_dim") && c.width % c.heads != 0) {
    fail(ErrorCode::kMismatch, "{}: num_attention_heads: expected a divisor of hidden_size = {}, found {}",
         source, c.width, c.heads);
  }
  c.head_width = json.contains("head_dim") ? extent("head_dim") : c.width / c.heads;
  c.max_positions = extent("max_position_embeddings");
  c.norm_eps = get_number(json, "rms_norm_eps", source);
  c.rope_theta = get_number(json, "rope_theta", source);
  c.qkv_bias = json.contains("qkv_bias") && get_bool(json, "qkv_bias", source);
  c.qk_norm = json.contains("qk_norm") && get_bool(json, "qk_norm", source);
  c.tied = get_bool(json, "tie_word_embeddings", source);
  c.variant = ffn_variant_from(get_string(json, "ffn_variant", source), source);
  for (const Json& layer : get_array(json, "stem_layers", source)) {
    if (!layer.is_number_integer()) {
      fail(ErrorCode::kFormat, "{}: stem_layers: expected integers, found {}", source, layer.dump());
    }
    c.stem_layers.push_back(layer.get<std::int64_t>());
  }
  if (c.has_experts()) {
    c.experts.experts = get_int(json, "num_local_experts", source, 1, kMaxExperts);
    c.experts.chosen = get_int(json, "num_experts_per_tok", source, 1, kMaxExperts);
    c.experts.width = extent("moe_intermediate_size");
  }
  if (c.variant == FfnVariant::hash_moe)
    c.experts.hash_seed = get_int(json, "hash_seed", source, 0, kMaxSeed);
  if (c.variant == FfnVariant::moe) {
    c.experts.balance_loss = get_number(json, "router_aux_loss_coef", source);
    c.experts.z_loss = get_number(json, "router_z_loss_coef", source);
  }
  c.validate(source);
  return c;
}

Accounting account(const ModelConfig& c) {
  Accounting a;
  const std::int64_t attention = c.width * c.qkv_width() + c.heads * c.head_width * c.width;
  const ExpertShape experts = c.expert_shape();
  const std::int64_t expert = 3 * c.width * experts.width;
  std::int64_t matrices = 0, idle = 0;  // idle: in experts that a token does not pass
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const FfnVariant ffn = c.ffn_of(l);
    matrices += attention;
    if (c.is_mixture(l)) {
      matrices += experts.experts * expert + (ffn == FfnVariant::moe ? experts.experts * c.width : 0);
      a.expert_parameters += experts.experts * expert;
      idle += (experts.experts - experts.chosen) * expert;
      continue;
    }
    const bool three = ffn == FfnVariant::dense || ffn == FfnVariant::stem_additive;
    matrices += (three ? 3 : 2) * c.width * c.ffn;
    if (!three) a.deleted_parameters += c.width * c.ffn;
  }
  const std::int64_t head = c.vocab * c.width;
  a.dense_parameters = matrices + (c.tied ? 1 : 2) * head;
  a.table_parameters = c.table_shape().size();
  a.active_parameters = a.dense_parameters - idle + c.table_shape().record();
  a.flops_per_token = 2.0 * static_cast<double>(matrices - idle + head);
  a.flops_per_token_with_lookup = a.flops_per_token + 2.0 * static_cast<double>(head);
  a.saved_share_per_stem_layer =
      static_cast<double>(c.ffn) / static_cast<double>(4 * c.width + 2 * c.max_positions + 3 * c.ffn);
  return a;
}

}  // namespace stem
