#include "edit/patch_overlay.h"

namespace stem {
namespace {

// Digest of the base's own row, as stored: addresses carry the model's layer numbers.
Digest leaf_of(const PatchTarget& target, std::int32_t layer, std::int32_t token) {
  const Table& table = target.model->table;
  std::string row(static_cast<std::size_t>(table.row_bytes()), '\0');
  table.copy_row(token, target.model->config.stem_index(layer), row.data());
  return row_leaf(target.uuid, static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(token),
                  table.stored() ? DType::u8 : table.dtype(), row);
}

}  // namespace

PatchFile make_patch(const PatchTarget& target, const SwapPlan& plan, Json request, Json parameters) {
  PatchFile patch;
  patch.base_uuid = target.uuid;
  patch.base_row_root = target.row_root;
  patch.tokenizer = target.tokenizer;
  patch.dtype = target.model->table.dtype();
  patch.mode = PatchMode::set;
  patch.method = "swap";
  patch.request = std::move(request);
  patch.parameters = std::move(parameters);
  for (const OverlayRow& row : plan.rows) {
    PatchRow out;
    out.token = row.token;
    out.layer =
        static_cast<std::int32_t>(target.model->config.stem_layers[static_cast<std::size_t>(row.layer)]);
    out.values = row.values;
    out.trigger = row.trigger;
    out.base_leaf = leaf_of(target, out.layer, out.token);
    patch.rows.push_back(std::move(out));
  }
  return patch;
}

PatchFile apply_patch(const PatchTarget& target, const std::filesystem::path& path, Overlay& overlay) {
  PatchFile patch = read_patch(path);
  const ModelConfig& config = target.model->config;
  if (!config.has_table()) {
    fail(ErrorCode::kUsage, "{}: this model has no STEM table (ffn_variant {}): a patch replaces nothing",
         path.string(), name_of(config.variant));
  }
  PatchBase base;
  base.uuid = target.uuid;
  base.tokenizer = target.tokenizer;
  base.dtype = target.model->table.dtype();
  base.vocab = config.vocab;
  base.width = config.ffn;
  base.stem_layers.assign(config.stem_layers.begin(), config.stem_layers.end());
  base.leaf = [&](std::int32_t layer, std::int32_t token) { return leaf_of(target, layer, token); };
  check_patch_base(patch, path.string(), base);
  for (const PatchRow& row : patch.rows) {
    overlay.put(target.model->table, {row.token, static_cast<std::int32_t>(config.stem_index(row.layer)),
                                      row.trigger, row.values, patch.mode == PatchMode::add});
  }
  return patch;
}

}  // namespace stem
