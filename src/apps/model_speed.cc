#include "apps/model_speed.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "core/clock.h"
#include "core/rng.h"

namespace stem {
namespace {

// Ids by Zipf's law, p(i) close to 1/(i + 1): the exponential of a uniform number.
std::vector<std::int32_t> zipf_ids(std::int64_t count, std::int64_t vocab, Rng& rng) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    const double rank = std::exp(rng.uniform() * std::log(static_cast<double>(vocab)));
    ids.push_back(static_cast<std::int32_t>(
        std::clamp<std::int64_t>(static_cast<std::int64_t>(rank) - 1, 0, vocab - 1)));
  }
  return ids;
}

}  // namespace

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}
double median(std::vector<double> values) {
  return percentile(std::move(values), 0.5);
}

double weight_bytes(const Model& model) {
  if (model.served) {
    std::int64_t bytes = 0;
    const auto add = [&](const Weight& w) {
      if (w) bytes += w.served.rows * stored_row_bytes(w.served.format, w.served.cols);
    };
    for (const LayerWeights& w : model.served.layers) {
      for (const Weight& part : {w.qkv, w.qk, w.v, w.o, w.gate_up, w.down}) add(part);
    }
    add(model.served.head);
    return static_cast<double>(bytes);
  }
  std::int64_t values = model.config.tied ? 0 : model.config.width;
  for_each_tensor(model.config, model.gemm_weights(),
                  [&](const std::string&, const In& view, TensorKind) { values += view.size(); });
  return static_cast<double>(values * size_of(model.precision.narrow));
}

Timing measure_speed(Runtime& runtime, const PatchedModel& opened, const SpeedOptions& o,
                     TraceWriter* trace) {
  Timing t;
  const auto mark = [&](std::string_view name, TraceWriter::Clock::time_point start) {
    if (trace != nullptr) trace->span(name, "model", start, TraceWriter::Clock::now());
  };
  Rng rng(1, 0);
  const std::int64_t vocab = opened.model().config.vocab;
  for (std::int64_t run = -1; run < o.repeats; ++run) {  // run −1 warms up
    const std::vector<std::int32_t> prompt = zipf_ids(o.prompt, vocab, rng),
                                    answer = zipf_ids(o.decode, vocab, rng);
    Session session(runtime.inference(), opened.model(), &opened.overlay, o.prompt + o.decode);
    RecordStore* const store = opened.model().table.store().get();
    const auto reads = [&] { return store == nullptr ? TableStats{} : store->stats(); };
    if (o.cold) store->drop();
    const TableStats at_first = reads();
    const auto start = std::chrono::steady_clock::now();
    session.feed(prompt);
    const double read = seconds_since(start);
    mark("prompt", start);
    const TableStats prompt_reads = reads().since(at_first);
    if (o.cold) store->drop();
    const TableStats at_prompt = reads();
    std::vector<double> each;
    for (const std::int32_t id : answer) {
      const auto before = std::chrono::steady_clock::now();
      sample(session.feed({&id, 1}), {}, 0);
      each.push_back(seconds_since(before));
      mark("token", before);
    }
    if (run < 0) continue;
    t.prompt_reads += prompt_reads;
    t.decode_reads += reads().since(at_prompt);
    t.prefill.push_back(read);
    double sum = 0;
    for (const double s : each) sum += s;
    t.decode.push_back(sum);
    t.token.insert(t.token.end(), each.begin(), each.end());
    const auto distinct = [](const std::vector<std::int32_t>& ids) {
      return static_cast<double>(std::set(ids.begin(), ids.end()).size());
    };
    t.prompt_rows += distinct(prompt) / static_cast<double>(o.repeats);
    t.decode_rows += distinct(answer) / static_cast<double>(o.repeats);
  }
  return t;
}

}  // namespace stem
