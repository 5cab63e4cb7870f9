// Loss spikes: when a step's loss is out of line with those before it, and what a run does about it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// What to do at a spike. A loss or gradient that is not finite cannot be carried on with: it stops the run
/// unless the choice is to skip or roll back.
enum class OnSpike {
  carry_on,  ///< "continue": report it and make the update
  stop,      ///< report it, save the state before the step, end with an error
  skip,      ///< make no update; Adam's step count does not advance
  rollback,  ///< back to the last checkpoint, and on behind the batches since then
};

std::string_view name_of(OnSpike choice);
/// Throws kUsage naming train.on_spike for anything but continue, stop, skip and rollback.
OnSpike on_spike_from(std::string_view name);

/// One step that was out of line.
struct Spike {
  double loss = 0;        ///< nats a token; may be NaN or infinite
  double limit = 0;       ///< what it was measured against; 0: only finiteness was in question
  bool is_finite = true;  ///< both the loss and the gradients
  OnSpike action = OnSpike::carry_on;
  std::vector<std::int64_t> documents;  ///< of the batch, as indices into the shard

  /// "the loss 9.2 lies above 4.1 (…)" or "the loss is not a number"
  std::string text() const;
};

/// The limit that losses are held against: median + 6 σ over the last 100 accepted losses, with the robust
/// σ = 1.4826 · median |loss − median|, and at least 1 % of the median, so that a run whose losses hardly
/// vary does not see spikes in noise. Says nothing before 20 losses.
class SpikeWindow {
 public:
  static constexpr std::size_t kWindow = 100, kLeast = 20;

  /// Infinite while there are too few losses.
  double limit() const;
  /// A loss whose update was made.
  void accept(double loss);

  const std::vector<double>& losses() const { return losses_; }  ///< oldest first, for the run's state
  void restore(std::vector<double> losses);                      ///< the newest kWindow of them

 private:
  std::vector<double> losses_;
};

}  // namespace stem
