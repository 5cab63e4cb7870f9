// Rotary position embedding and causal grouped-query attention over segments.
#pragma once

#include <span>

#include "ops/context.h"

namespace stem {

/// How the rotary frequencies f_i = theta^(-2i/A) are stretched for longer contexts than a model was first
/// trained on; wavelength λ_i = 2π / f_i.
struct RopeScaling {
  enum class Kind {
    none,
    linear,  ///< f_i / factor
    llama3,  ///< f_i where λ_i < original / high, f_i / factor where λ_i > original / low, between them
             ///< f_i·((1 − s) / factor + s) with s = (original / λ_i − low) / (high − low)
  };
  Kind kind = Kind::none;
  double factor = 1.0;
  double low = 1.0, high = 4.0;      ///< low_freq_factor, high_freq_factor
  double original_positions = 8192;  ///< original_max_position_embeddings

  /// f_i of frequency f.
  double scaled(double frequency) const;
};

/// Fills cos_sin [positions, A] wide: A/2 cosines, then A/2 sines, of p · f_i.
void rope_table(Out cos_sin, double theta, const RopeScaling& scaling = {});

/// Rotates every head of x [N, heads·A] in place. positions[n] < cos_sin.rows.
void rope_forward(const Context&, Out x, std::int64_t heads, In cos_sin,
                  std::span<const std::int32_t> positions);
/// The inverse rotation, in place on d_x.
void rope_backward(const Context&, Out d_x, std::int64_t heads, In cos_sin,
                   std::span<const std::int32_t> positions);

/// y [N, H·A] = softmax(q kᵀ/√A) v within each segment, causal. q [N, H·A], k, v [M, K·A], narrow.
/// lse [N, H] wide is kept for the backward (null: not kept). With ctx.inference, lse must be null and the
/// batch-invariant kernel runs; k and v may then be bf16 or i8 beside a wide q.
void attention_forward(const Context&, Out y, Out lse, In q, In k, In v, Heads heads,
                       std::span<const Segment> segments);

/// Keys or values [N, K·A] wide as `to` [N, K·Heads::stored_width] keeps them: f32, bf16 or i8.
void store_keys(const Context&, Out to, In from, Heads heads);

/// d_q [N, H·A], d_k, d_v [M, K·A] overwrite. Segments must have k_len = q_len and k_row = q_row.
void attention_backward(const Context&, Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse,
                        Heads heads, std::span<const Segment> segments);

}  // namespace stem
