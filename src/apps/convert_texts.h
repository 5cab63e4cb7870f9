// The texts of a conversion: what layers are calibrated on and rows updated by, what layers are chosen by,
// what is healed on, what the result is judged on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/calibration_text.h"
#include "io/json.h"
#include "text/tokenizer.h"

namespace stem {

/// The token that every sequence begins with, and every prompt of a converted model: what prompts begin with
/// already (Tokenizer::start_id), else what chats do, else the begin-of-text token, else the end-of-text
/// token.
std::optional<std::int32_t> start_token(const Tokenizer& tokenizer);

struct TextLimits {
  std::int64_t sequence = 512;         ///< T
  std::int64_t calibration = 131'072;  ///< tokens at most, as are all that follow
  std::int64_t selection = 5'120, held_out = 30'720;
  std::int64_t further = 0;  ///< beyond the calibration's, for rows alone
  std::int64_t healing = 0;
};

/// Positions [first, first + count) of the held-out text come from one of the user's texts.
struct TextPart {
  std::string name;
  std::int64_t first = 0, count = 0;
};

struct ConversionTexts {
  CalibrationText calibration, selection, held_out;
  /// For RowUpdate: sequences like the calibration's, none of them among those.
  std::vector<std::int32_t> further = {};
  /// For healing: sequences of `sequence` tokens with their start tokens, from anywhere but what is set
  /// aside.
  std::vector<std::int32_t> healing = {};
  /// [V] how often each token occurs in what rows are made from, calibration and further.
  std::vector<std::int64_t> frequency = {};
  std::vector<TextPart> parts = {};  ///< of held_out
  Json sources = Json::array();      ///< for reports: file, tokens read, tokens used
  std::string digest = {};           ///< of all tokens: a resumed run must have the same
  bool own_held_out = false;         ///< the user gave no text to judge on
};

/// Reads files and folders, tokenises them, cuts them into sequences that begin with start_token.
/// One of eight sequences of `calibrate` is set aside: to choose layers by, and, where `held_out` is empty,
/// half of them to judge the result on. Texts share the limits equally; what a short one leaves, the others
/// take. Throws kUsage where there are too few sequences, naming how many tokens of the vocabulary never
/// occur.
ConversionTexts conversion_texts(const Tokenizer& tokenizer, std::int64_t vocab,
                                 const std::vector<std::string>& calibrate,
                                 const std::vector<std::string>& held_out, const TextLimits& limits);

/// Only a text to calibrate on: all sequences of `calibrate`, `tokens` at most. `sources` receives what
/// ConversionTexts::sources tells.
CalibrationText calibration_text(const Tokenizer& tokenizer, std::int64_t vocab,
                                 const std::vector<std::string>& calibrate, std::int64_t sequence,
                                 std::int64_t tokens, Json& sources);

}  // namespace stem
