// The report of the atlas demonstration: what was trained, what was edited, what it did.
#pragma once

#include <string>

#include "io/json.h"

namespace stem {

/// A self-contained HTML page of the demonstration's results. A section that is missing in `results` is left
/// out, and so is a number that is null or not finite. Every string is escaped. Losses in nats per token,
/// shares in [0, 1]:
///
///     title, created, machine, command
///     model     directory uuid config{config.json} dense_parameters table_parameters active_parameters
///     stem_layers[] bytes training  steps[] loss[] eval_steps[] eval_loss[] tokens seconds tokens_per_s
///     validation_loss validation_perplexity where     token id offset bytes layers[] updates swap prompt
///     tokens[] ids[] slot_index slot donors[] before{answer text top[{token p}]} after{the same} blend like
///     swap, with several donors patch     slot donor file bit_identical cases[{prompt before after
///     reverted}] attack    cases[{prompt before after}] perplexity_before perplexity_after refusal
///     diff[tokens] ablation  learned{loss perplexity} random{…} none{…} score     countries pairs
///     templates[{id text relation seen base_accuracy swap_success slot_kept cases}]
///               multi_token[{rule cases success by_donor[{donor success}]}]
///     cosines   edges[bins + 1] buckets[{name rows trained[bins] initial[bins] p95_trained p95_initial
///     gaussian_p95}]
///
/// Throws kFormat naming the field when one has the wrong type.
std::string atlas_report(const Json& results);

}  // namespace stem
