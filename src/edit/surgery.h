// Swaps: which rows a slot's tokens read instead of their own (stem-spec §8). Nothing here changes a table.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/reference_rows.h"
#include "tables/overlay.h"
#include "text/tokenizer.h"

namespace stem {

/// How donor records meet slot tokens when their numbers differ.
enum class SpanRule {
  automatic,   ///< one to one when n_s = n_d, else average
  one_to_one,  ///< needs n_s = n_d
  average,     ///< every slot row reads the mean of the donor records
  copy,        ///< slot i reads donor[i mod n_d]
  left_pad,    ///< n_s > n_d: pad-token (else end-of-text) rows first, then the donors
  right_pad,   ///< n_s > n_d: the donors first, then pad rows
  subset,      ///< n_s < n_d: the last n_s donors
};
std::string_view name_of(SpanRule rule);
/// Throws kUsage that lists the rules.
SpanRule span_rule_from(std::string_view name);

/// For each of n_s slot tokens the donor tokens whose records it reads the mean of. Throws kUsage when the
/// rule does not fit the numbers. `pad` is the token whose rows fill.
std::vector<std::vector<std::int32_t>> donors_of_slots(SpanRule rule, std::size_t slots,
                                                       std::span<const std::int32_t> donors,
                                                       std::int32_t pad);

/// The rows that a swap reads: a model's, and where they are added to an up-projection, what that gives on
/// average.
struct SwapSource {
  const Table& table;                        ///< U
  const ReferenceRows* reference = nullptr;  ///< ū
};

/// What `slot` reads in place of its own record so that it stands for the donors, [S·F] f32: the mean of
/// their records; with reference rows U[slot] + mean ū[donors] − ū[slot].
std::vector<float> swapped_record(const SwapSource& source, std::int32_t slot,
                                  std::span<const std::int32_t> donors);

struct SwapRequest {
  std::string
      slot;  ///< a name ("Spain": all its spellings) or an exact text with its leading space (" Spain")
  std::vector<std::string>
      donors;  ///< names; their tokens are joined in order ("Czech Republic" or "Czech", "Republic")
  SpanRule rule = SpanRule::automatic;
  bool exchange = false;  ///< slot and donor read each other
  bool pieces = false;    ///< accept words that the tokenizer cuts into pieces
  std::optional<std::pair<std::int64_t, std::int64_t>>
      layers;  ///< STEM layers [first, last] by model layer number
};

/// Rows to put in force, and what a user should know about them.
struct SwapPlan {
  std::vector<OverlayRow> rows;
  std::vector<std::string> spellings;  ///< slot texts covered, for example " Spain", "Spain"
  std::vector<std::string> notes;      ///< warnings: spellings left out, shared first tokens, other senses
  std::vector<std::vector<std::int32_t>> slot_tokens;  ///< [spelling][n_s]
  std::vector<std::int32_t> donor_tokens;              ///< of the first spelling
};

/// Throws kNotFound for a name that is no token (naming the pieces and the nearest known name), kUsage for
/// slot = donor, a rule that does not fit, an empty layer range, or a model whose rows say nothing.
/// `stem_layers` are the model's STEM layers, by layer number.
SwapPlan plan_swap(const SwapSource& source, const Tokenizer& tokenizer,
                   std::span<const std::int64_t> stem_layers, const SwapRequest& request);

/// Spellings of a name that a text may use: " Spain", "Spain", " spain", "spain", " SPAIN", "SPAIN"; an exact
/// text (leading space) stands for itself.
std::vector<std::string> spellings_of(std::string_view name);

}  // namespace stem
