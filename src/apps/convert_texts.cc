#include "apps/convert_texts.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "data/text_source.h"
#include "generate/chat_prompt.h"
#include "io/digest.h"

namespace stem {
namespace {

constexpr std::int64_t kShare = 8;            // one sequence of so many is set aside
constexpr std::int64_t kFewestSequences = 8;  // to calibrate on
constexpr std::int64_t kAll = std::int64_t{1} << 40;

std::vector<std::int32_t> tokens_of(const Tokenizer& tokenizer, const std::string& path) {
  const TokenShard shard = tokenize(tokenizer, read_documents(path), "");
  // Documents one behind the other, without the token that tokenize puts before each.
  std::vector<std::int32_t> tokens;
  for (std::size_t d = 0; d + 1 < shard.documents.size(); ++d)
    tokens.insert(tokens.end(), shard.tokens.begin() + shard.documents[d] + 1,
                  shard.tokens.begin() + shard.documents[d + 1]);
  return tokens;
}

// `total` divided among texts that have `available` each: equally, but none more than it has.
std::vector<std::int64_t> shares(const std::vector<std::int64_t>& available, std::int64_t total) {
  std::vector<std::size_t> order(available.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return available[a] < available[b]; });
  std::vector<std::int64_t> result(available.size());
  auto left = static_cast<std::int64_t>(available.size());
  for (const std::size_t i : order) {
    result[i] = std::min(available[i], total / left--);
    total -= result[i];
  }
  return result;
}

class Divider {
 public:
  Divider(std::int32_t start, std::int64_t sequence) : start_(start), sequence_(sequence) {}

  // Sequences of each text, at most `limit` tokens in all; every kShare-th left out, or only these.
  std::vector<std::vector<std::int32_t>> take(const std::vector<std::vector<std::int32_t>>& texts,
                                              std::int64_t limit, bool set_aside, bool whole) const {
    return share(texts.size(), limit, [&](std::size_t i, std::int64_t most) {
      DividedText d = divide_text(texts[i], start_, sequence_, whole ? kAll : kShare, most, most);
      return set_aside ? std::move(d.held_out) : std::move(d.calibration);
    });
  }

  // Sequences of each text, at most `limit` tokens in all, that `taken` = take(texts, …, false, false) left.
  std::vector<std::vector<std::int32_t>> take_further(const std::vector<std::vector<std::int32_t>>& texts,
                                                      const std::vector<std::vector<std::int32_t>>& taken,
                                                      std::int64_t limit) const {
    return share(texts.size(), limit, [&](std::size_t i, std::int64_t most) {
      return divide_text(texts[i], start_, sequence_, kShare, std::ssize(taken[i]), 0, most).further;
    });
  }

 private:
  // part(i, most): of text i `most` tokens, or as many as there are.
  template <class Part>
  std::vector<std::vector<std::int32_t>> share(std::size_t texts, std::int64_t limit,
                                               const Part& part) const {
    std::vector<std::vector<std::int32_t>> all;
    std::vector<std::int64_t> available;
    for (std::size_t i = 0; i < texts; ++i) available.push_back(std::ssize(part(i, kAll)) / sequence_);
    const std::vector<std::int64_t> counts = shares(available, limit / sequence_);
    for (std::size_t i = 0; i < texts; ++i) all.push_back(part(i, counts[i] * sequence_));
    return all;
  }

  std::int32_t start_;
  std::int64_t sequence_;
};

std::vector<std::int32_t> joined(const std::vector<std::vector<std::int32_t>>& texts) {
  std::vector<std::int32_t> all;
  for (const auto& text : texts) all.insert(all.end(), text.begin(), text.end());
  return all;
}

// Every second sequence, from the first or from the second on.
std::vector<std::int32_t> every_second(const std::vector<std::int32_t>& text, std::int64_t sequence,
                                       bool odd) {
  std::vector<std::int32_t> half;
  const auto length = static_cast<std::ptrdiff_t>(sequence);
  for (std::ptrdiff_t i = odd ? 1 : 0; (i + 1) * length <= std::ssize(text); i += 2)
    half.insert(half.end(), text.begin() + i * length, text.begin() + (i + 1) * length);
  return half;
}

// True where one path is the other or in it.
bool overlap(const std::string& one, const std::string& other) {
  namespace fs = std::filesystem;
  const auto place = [](const std::string& path) { return (fs::weakly_canonical(path) / "").parent_path(); };
  const fs::path a = place(one), b = place(other);
  const auto [rest_of_a, rest_of_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return rest_of_a == a.end() || rest_of_b == b.end();
}

// A text read twice would be set aside in one place and calibrated on in the other.
void require_once(const std::vector<std::string>& calibrate) {
  for (std::size_t i = 0; i < calibrate.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (overlap(calibrate[i], calibrate[j]))
        fail(ErrorCode::kUsage, "--calibrate: {}: expected every text once, found it with {} too",
             calibrate[i], calibrate[j]);
}

// The result is not judged on what it was made from.
void require_apart(const std::vector<std::string>& calibrate, const std::vector<std::string>& held_out) {
  for (const std::string& judged : held_out) {
    for (const std::string& used : calibrate) {
      if (overlap(judged, used))
        fail(ErrorCode::kUsage, "--held-out: {}: expected text that is not calibrated on, found it in {}",
             judged, used);
    }
  }
}

std::vector<std::vector<std::int32_t>> read_all(const Tokenizer& tokenizer,
                                                const std::vector<std::string>& paths) {
  std::vector<std::vector<std::int32_t>> texts;
  for (const std::string& path : paths) texts.push_back(tokens_of(tokenizer, path));
  return texts;
}

// What a chat begins with; none where there is no template, or one that wants another conversation.
std::optional<std::int32_t> chat_start(const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template()) return std::nullopt;
  try {
    const std::vector<std::int32_t> ids = ChatPrompt(tokenizer).encode({{"user", "Hello"}});
    if (!ids.empty() && tokenizer.is_special(ids.front())) return ids.front();
  } catch (const Error&) {
  }
  return std::nullopt;
}

Json sources_of(const std::vector<std::string>& paths, const std::vector<std::vector<std::int32_t>>& texts,
                const std::vector<std::vector<std::int32_t>>& used) {
  Json sources = Json::array();
  for (std::size_t i = 0; i < texts.size(); ++i)
    sources.push_back({{"file", std::filesystem::path(paths[i]).filename().string()},
                       {"tokens", texts[i].size()},
                       {"calibration_tokens", used[i].size()}});
  return sources;
}

}  // namespace

std::optional<std::int32_t> start_token(const Tokenizer& tokenizer) {
  for (const auto& id : {tokenizer.start_id(), chat_start(tokenizer), tokenizer.bos_id(), tokenizer.eos_id()})
    if (id) return id;
  return std::nullopt;
}

CalibrationText calibration_text(const Tokenizer& tokenizer, std::int64_t vocab,
                                 const std::vector<std::string>& calibrate, std::int64_t sequence,
                                 std::int64_t tokens, Json& sources) {
  require_once(calibrate);
  const auto texts = read_all(tokenizer, calibrate);
  const auto used = Divider(start_token(tokenizer).value_or(-1), sequence).take(texts, tokens, false, true);
  sources = sources_of(calibrate, texts, used);
  CalibrationText text(joined(used), sequence);
  if (text.size() < kFewestSequences * sequence)
    fail(ErrorCode::kUsage,
         "--calibrate: expected at least {} sequences of {} tokens, found {} of at most {} tokens (--tokens; "
         "{} of the vocabulary's {} tokens never occur)",
         kFewestSequences, sequence, text.size() / sequence, tokens, vocab - std::ssize(text.distinct()),
         vocab);
  return text;
}

ConversionTexts conversion_texts(const Tokenizer& tokenizer, std::int64_t vocab,
                                 const std::vector<std::string>& calibrate,
                                 const std::vector<std::string>& held_out, const TextLimits& limits) {
  require_apart(calibrate, held_out);
  require_once(calibrate);
  const Divider divider(start_token(tokenizer).value_or(-1), limits.sequence);
  const auto texts = read_all(tokenizer, calibrate), judged = read_all(tokenizer, held_out);

  const auto calibration = divider.take(texts, limits.calibration, false, false);
  const bool own = judged.empty();
  std::vector<std::vector<std::int32_t>> chosen = divider.take(
      texts, own ? 2 * std::max(limits.selection, limits.held_out) : limits.selection, true, false);
  std::vector<std::vector<std::int32_t>> judging;
  if (own) {
    for (auto& text : chosen) {
      judging.push_back(every_second(text, limits.sequence, true));
      text = every_second(text, limits.sequence, false);
    }
  } else {
    judging = divider.take(judged, limits.held_out, false, true);
  }
  ConversionTexts result{
      CalibrationText(joined(calibration), limits.sequence),
      CalibrationText(divide_text(joined(chosen), -1, limits.sequence, kAll, limits.selection, 0).calibration,
                      limits.sequence),
      CalibrationText(joined(judging), limits.sequence)};
  result.own_held_out = own;
  std::vector<std::vector<std::int32_t>> further(texts.size());
  if (limits.further > 0) {
    further = divider.take_further(texts, calibration, limits.further);
    result.further = joined(further);
  }
  result.frequency.assign(static_cast<std::size_t>(vocab), 0);
  for (const std::span<const std::int32_t> part :
       {result.calibration.tokens(), std::span<const std::int32_t>(result.further)})
    for (const std::int32_t token : part) ++result.frequency[static_cast<std::size_t>(token)];
  if (limits.healing > 0) {
    const std::int64_t most = std::max(limits.healing, kFewestSequences * limits.sequence);
    result.healing = joined(divider.take(texts, most, false, false));
  }
  if (!own && result.held_out.size() == 0) {
    fail(ErrorCode::kUsage, "--held-out: expected at least one sequence of {} tokens, found {} tokens",
         limits.sequence, joined(judged).size());
  }
  const std::int64_t sequences = result.calibration.size() / limits.sequence;
  if (sequences < kFewestSequences || result.selection.size() == 0 || result.held_out.size() == 0) {
    const std::int64_t unseen = vocab - std::ssize(result.calibration.distinct());
    fail(ErrorCode::kUsage,
         "--calibrate: expected at least {} sequences of {} tokens and text to judge on, found {} and {} "
         "tokens, of at most {} (--tokens) to calibrate on ({} of the vocabulary's {} tokens never occur)",
         kFewestSequences, limits.sequence, sequences, result.held_out.size(), limits.calibration, unseen,
         vocab);
  }
  if (limits.further > 0 && result.further.empty())
    fail(ErrorCode::kUsage,
         "--row-tokens: expected at least one sequence of {} tokens beyond the {} calibrated on, found none "
         "in {} tokens, of at most {}",
         limits.sequence, result.calibration.size(), joined(texts).size(), limits.further);
  std::int64_t first = 0;
  const std::vector<std::string>& names = own ? calibrate : held_out;
  for (std::size_t i = 0; i < judging.size(); ++i) {
    const std::int64_t count = std::ssize(judging[i]);
    result.parts.push_back({std::filesystem::path(names[i]).filename().string(), first, count});
    first += count;
  }
  result.sources = sources_of(calibrate, texts, calibration);
  for (std::size_t i = 0; i < texts.size(); ++i) result.sources[i]["row_tokens"] = further[i].size();
  Sha256 hash;
  for (const CalibrationText* text : {&result.calibration, &result.selection, &result.held_out})
    hash.update(text->tokens().data(), text->tokens().size_bytes());
  for (const std::size_t size : {result.calibration.tokens().size(), result.selection.tokens().size(),
                                 result.held_out.tokens().size(), result.further.size()})
    hash.update(&size, sizeof size);
  hash.update(result.further.data(), result.further.size() * sizeof(std::int32_t));
  hash.update(result.healing.data(), result.healing.size() * sizeof(std::int32_t));
  result.digest = to_hex(hash.finish());
  return result;
}

}  // namespace stem
