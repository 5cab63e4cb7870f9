#include "apps/row_health.h"

#include <cmath>
#include <fstream>

#include "io/safetensors.h"

namespace stem {
namespace {

void overwrite(const std::filesystem::path& path, const std::string& tensor, const Context& ctx, In weights,
               const RowState& state) {
  require(weights.dtype == DType::f32, "rows are stored as f32");
  const std::uint64_t offset = Safetensors::open(path).info(tensor).offset;
  const auto row_bytes =
      static_cast<std::streamoff>(weights.cols) * static_cast<std::streamoff>(sizeof(float));
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  visit_current(ctx, weights, state, [&](std::int64_t first, In rows) {
    file.seekp(static_cast<std::streamoff>(offset) + first * row_bytes);
    file.write(static_cast<const char*>(rows.data), rows.rows * row_bytes);
  });
  file.close();
  if (!file) fail(ErrorCode::kIo, "{}: {}: could not be written (disk full?)", path.string(), tensor);
}

}  // namespace

InitialRecords::InitialRecords(const ModelConfig& config, std::uint64_t seed)
    : config_(config), seed_(seed) {}

InitialRecords::InitialRecords(const ModelConfig& config, const std::filesystem::path& from)
    : config_(config), table_(std::make_unique<Table>()) {
  const std::filesystem::path path = from / kTableFile;
  const bool absent = config.variant == FfnVariant::stem_additive && !std::filesystem::exists(path);
  *table_ = absent ? Table::absent(config.table_shape())
                   : Table::mapped(Safetensors::open(path), config.table_shape());
}

void InitialRecords::read(std::int64_t token, std::span<float> record) const {
  if (table_ != nullptr) {
    const auto width = static_cast<std::size_t>(config_.ffn);
    for (std::int64_t layer = 0; layer < config_.stem_layer_count(); ++layer)
      table_->read_row(token, layer, record.subspan(static_cast<std::size_t>(layer) * width, width));
  } else {
    init_table(matrix(record.data(), 1, static_cast<std::int64_t>(record.size())), config_, seed_, token);
  }
}

void measure_rows(const Context& ctx, const Model& model, const Optimizer& optimizer,
                  const InitialRecords* initial, bool only_updated, TokenStats& stats) {
  if (!model.table.present()) return;
  const In records = model.table.records();
  stats.norm.assign(static_cast<std::size_t>(records.rows), 0.0f);
  if (initial != nullptr) stats.distance.assign(static_cast<std::size_t>(records.rows), 0.0f);
  visit_current(ctx, records, optimizer.table, [&](std::int64_t first, In rows) {
#pragma omp parallel
    {
      std::vector<float> start(static_cast<std::size_t>(rows.cols));
#pragma omp for schedule(dynamic)
      for (std::int64_t r = 0; r < rows.rows; ++r) {
        const auto token = static_cast<std::size_t>(first + r);
        const float* const now = rows.row<float>(r);
        double norm = 0, distance = 0;
        for (std::int64_t i = 0; i < rows.cols; ++i) norm += static_cast<double>(now[i]) * now[i];
        stats.norm[token] = static_cast<float>(std::sqrt(norm));
        if (initial == nullptr || (only_updated && stats.updates[token] == 0)) continue;
        initial->read(first + r, start);
        for (std::size_t i = 0; i < start.size(); ++i) {
          const double moved = static_cast<double>(now[i]) - static_cast<double>(start[i]);
          distance += moved * moved;
        }
        stats.distance[token] = static_cast<float>(std::sqrt(distance));
      }
    }
  });
}

void write_current_rows(const std::filesystem::path& dir, const Context& ctx, const Model& model,
                        const Optimizer& optimizer) {
  if (optimizer.mode() == TableOptimizer::lazy) return;
  if (optimizer.table.present())
    overwrite(dir / kTableFile, "stem.table", ctx, model.table.records(), optimizer.table);
  if (optimizer.embedding.present())
    overwrite(dir / kWeightsFile, "model.embed_tokens.weight", ctx, model.embedding.view,
              optimizer.embedding);
}

}  // namespace stem
