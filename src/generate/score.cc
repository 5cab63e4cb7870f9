#include "generate/score.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/loss.h"

namespace stem {
namespace {

// What the model reads once: the prompt and all of an answer but its last token. Cases that read the same
// share it.
struct Sequence {
  std::vector<std::int32_t> tokens;
  std::int64_t shared = 0;     // leading tokens whose keys and values another sequence's prefix pass makes
  std::int64_t first_of = -1;  // index of the sequence that makes them; its own index: itself
  std::int64_t cache_row = 0;  // where its keys lie

  std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()); }
};

// A case within a batch: which sequence it reads.
struct Member {
  const ScoreCase* wanted;
  std::size_t sequence;
};

struct Packed {
  std::vector<std::int32_t> tokens, positions;
  std::vector<Segment> segments;
  std::vector<const std::int32_t*> contexts;

  // Tokens [from, to) of a sequence; keys lie at `key_row`.
  void append(const Sequence& s, std::int64_t from, std::int64_t to, std::int64_t key_row) {
    segments.push_back({static_cast<std::int64_t>(tokens.size()), to - from, key_row, to});
    contexts.push_back(s.tokens.data());
    tokens.insert(tokens.end(), s.tokens.begin() + from, s.tokens.begin() + to);
    positions.resize(tokens.size());
    std::iota(positions.end() - (to - from), positions.end(), static_cast<std::int32_t>(from));
  }
  TokenBatch view() const { return {tokens, positions, segments, contexts}; }
};

class Scorer {
 public:
  Scorer(const Context& context, const Model& model, const Overlay* overlay, const ScoreOptions& options)
      : context_(context), model_(model), overlay_(overlay), options_(options) {}

  // Plans cases until the batch is full; returns how many.
  std::size_t plan(std::span<const ScoreCase> cases);
  void run(std::vector<ScoreResult>& results);

 private:
  std::int64_t add(const ScoreCase& c, const ScoreCase* before);
  void make_prefixes();
  void copy_prefixes();
  void judge(const Activations& a, const Packed& packed, std::vector<ScoreResult>& results);

  Context context_;
  const Model& model_;
  const Overlay* overlay_;
  ScoreOptions options_;
  std::vector<Sequence> sequences_;
  std::vector<Member> members_;
  std::size_t group_ = 0;  // first sequence with the prompt of the case before
  KvCache cache_;
};

bool equal_prefix(const std::vector<std::int32_t>& a, std::size_t from, const std::vector<std::int32_t>& b) {
  return a.size() == from + b.size() - 1 &&
         std::equal(b.begin(), b.end() - 1, a.begin() + static_cast<std::ptrdiff_t>(from));
}

// Returns the tokens that the case adds to the batch.
std::int64_t Scorer::add(const ScoreCase& c, const ScoreCase* before) {
  const bool alike = context_.inference && before != nullptr && c.edits.empty() && before->edits.empty() &&
                     c.prompt == before->prompt;
  if (alike) {
    for (std::size_t i = group_; i < sequences_.size(); ++i) {
      if (!equal_prefix(sequences_[i].tokens, c.prompt.size(), c.wanted)) continue;
      members_.push_back({&c, i});
      return 0;
    }
  }
  Sequence s;
  s.tokens = c.prompt;
  s.tokens.insert(s.tokens.end(), c.wanted.begin(), c.wanted.end() - 1);
  const auto index = static_cast<std::int64_t>(sequences_.size());
  // The last token of the prompt is read with every answer: its output judges the answer's first token.
  const auto shared = static_cast<std::int64_t>(c.prompt.size()) - 1;
  if (!alike) {
    group_ = sequences_.size();
  } else if (shared > 0) {
    Sequence& first = sequences_[group_];
    s.shared = first.shared = shared;
    s.first_of = first.first_of = static_cast<std::int64_t>(group_);
  }
  members_.push_back({&c, static_cast<std::size_t>(index)});
  sequences_.push_back(std::move(s));
  return sequences_.back().length();
}

std::size_t Scorer::plan(std::span<const ScoreCase> cases) {
  sequences_.clear();
  members_.clear();
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const ScoreCase& c = cases[i];
    require(!c.prompt.empty() && !c.wanted.empty(), "a case needs a prompt and an answer");
    const auto length = static_cast<std::int64_t>(c.prompt.size() + c.wanted.size() - 1);
    if (length > model_.config.max_positions) {
      fail(ErrorCode::kUsage,
           "the context holds {} tokens (max_position_embeddings), a prompt with its answer needs {}",
           model_.config.max_positions, length);
    }
    if (i > 0 && tokens + length > options_.tokens_per_batch) return i;
    tokens += add(c, i == 0 ? nullptr : &cases[i - 1]);
  }
  return cases.size();
}

// Runs what sequences share and leaves keys and values in the rows of the first of them.
void Scorer::make_prefixes() {
  std::int64_t capacity = 0;
  for (Sequence& s : sequences_) {
    s.cache_row = capacity;
    capacity += s.length();
  }
  if (cache_.capacity() < capacity) cache_ = KvCache(model_, capacity);
  Packed packed;
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    const Sequence& s = sequences_[i];
    if (s.first_of == static_cast<std::int64_t>(i)) packed.append(s, 0, s.shared, s.cache_row);
  }
  const TokenBatch batch = packed.view();
  const RowPlan rows(model_.table, batch, overlay_);
  Workspace::Scope scope(*context_.workspace);
  Activations a = allocate_activations(context_, model_, batch.size());
  forward_hidden(context_, model_, batch, rows, a, &cache_);
}

void Scorer::copy_prefixes() {
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    const Sequence& s = sequences_[i];
    if (s.shared == 0 || s.first_of == static_cast<std::int64_t>(i)) continue;
    const std::int64_t from = sequences_[static_cast<std::size_t>(s.first_of)].cache_row;
    cache_.copy_rows(from, s.cache_row, s.shared);
  }
}

void Scorer::run(std::vector<ScoreResult>& results) {
  const bool reuse =
      std::any_of(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return s.shared > 0; });
  if (reuse) {
    make_prefixes();
    copy_prefixes();
  }
  Packed packed;
  for (const Sequence& s : sequences_) {
    const auto row = static_cast<std::int64_t>(packed.tokens.size());
    packed.append(s, s.shared, s.length(), reuse ? s.cache_row : row);
  }
  const TokenBatch batch = packed.view();
  RowPlan rows(model_.table, batch, overlay_);
  const TableShape shape = model_.table.shape();
  for (const Member& m : members_) {
    const std::int64_t row = packed.segments[m.sequence].q_row;
    for (const RecordEdit& edit : m.wanted->edits) {
      for (std::int64_t s = 0; s < shape.layers; ++s)
        rows.redirect(row + edit.position, s, edit.record + s * shape.width);
    }
  }
  Workspace::Scope scope(*context_.workspace);
  Activations a = allocate_activations(context_, model_, batch.size());
  forward_hidden(context_, model_, batch, rows, a, reuse ? &cache_ : nullptr);
  judge(a, packed, results);
}

void Scorer::judge(const Activations& a, const Packed& packed, std::vector<ScoreResult>& results) {
  std::vector<std::int64_t> judged;
  std::vector<std::int32_t> targets;
  for (const Member& m : members_) {
    const Sequence& s = sequences_[m.sequence];
    const auto prompt = static_cast<std::int64_t>(m.wanted->prompt.size());
    for (std::size_t i = 0; i < m.wanted->wanted.size(); ++i) {
      const std::int64_t position = prompt - 1 + static_cast<std::int64_t>(i);
      judged.push_back(packed.segments[m.sequence].q_row + position - s.shared);
      targets.push_back(m.wanted->wanted[i]);
    }
  }
  const auto count = static_cast<std::int64_t>(judged.size()), vocab = model_.config.vocab;
  Out logits, loss;
  if (options_.greedy) {
    logits = context_.workspace->matrix(model_.precision.wide, count, vocab);
    forward_logits(context_, model_, a, judged, logits);
  }
  if (options_.log_probability) {
    const In hidden = a.normed_final;
    const Out picked = context_.workspace->matrix(hidden.dtype, count, hidden.cols);
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(picked.slice_rows(i, 1).data,
                  hidden.slice_rows(judged[static_cast<std::size_t>(i)], 1).data,
                  static_cast<std::size_t>(hidden.cols * size_of(hidden.dtype)));
    }
    loss = context_.workspace->matrix(model_.precision.wide, 1, count);
    lm_head_loss_forward(context_, loss, picked, model_.head_weight(), targets);
  }
  std::int64_t row = 0;
  for (const Member& m : members_) {
    ScoreResult result;
    result.exact = options_.greedy;
    for (std::size_t i = 0; i < m.wanted->wanted.size(); ++i, ++row) {
      if (options_.greedy) {
        const float* l = logits.row<float>(row);
        const auto top = static_cast<std::int32_t>(std::max_element(l, l + vocab) - l);
        if (i == 0) result.first = top;
        result.exact = result.exact && top == m.wanted->wanted[i];
      }
      if (options_.log_probability) result.log_probability -= static_cast<double>(loss.row<float>(0)[row]);
    }
    results.push_back(result);
  }
}

}  // namespace

std::vector<ScoreResult> score_cases(const Context& context, const Model& model,
                                     std::span<const ScoreCase> cases, const Overlay* overlay,
                                     const ScoreOptions& options) {
  std::vector<ScoreResult> results;
  results.reserve(cases.size());
  Scorer scorer(context, model, overlay, options);
  while (!cases.empty()) {
    const std::size_t count = scorer.plan(cases);
    scorer.run(results);
    cases = cases.subspan(count);
  }
  return results;
}

}  // namespace stem
