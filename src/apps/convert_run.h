// A conversion on disk: damage, layers, the finished model; it goes on where it was stopped.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/convert_heal.h"
#include "apps/convert_texts.h"
#include "apps/model_directory.h"
#include "apps/runtime.h"
#include "convert/conversion.h"
#include "convert/damage.h"

namespace stem {

struct ConvertSettings {
  std::filesystem::path model, out;
  std::string layers;  ///< best:N, third, half, full, or a list; empty: best:10, or all of fewer
  std::vector<std::string> calibrate, held_out;
  TextLimits limits;
  std::int64_t damage_tokens = 32'768;  ///< of the calibration text, at most, to choose layers by
  ConversionOptions options;
  std::int64_t row_tokens = 0;  ///< further tokens of the texts, at most, to update finished rows by
  HealSettings heal;
  std::filesystem::path teacher;  ///< of the healing; empty: the model itself
  bool quiet = false;
};

/// Converts settings.model to settings.out. Beside it, in run_directory(out)/convert, lie what is known of
/// each layer's damage and every layer that is done; the same command goes on with them, another one is
/// refused (kUsage) until that folder is removed. On SIGINT or SIGTERM the layer in hand is finished and
/// Interrupted thrown. Returns what a report shows: source, layers, damage, texts, figures before and after
/// (docs/formats/conversion.md); the same JSON lies in the model as kConversionFile.
Json convert_model(Runtime& runtime, const ConvertSettings& settings);

/// True while the model at `out` is one that convert_model wrote and nobody was told of: the same command
/// judges it without making it again. `conversion_reported` ends that.
bool conversion_unreported(const std::filesystem::path& out);
void conversion_reported(const std::filesystem::path& out);

}  // namespace stem
