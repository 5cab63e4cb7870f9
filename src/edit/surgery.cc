#include "edit/surgery.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <tuple>

#include "core/error.h"
#include "core/names.h"

namespace stem {
namespace {

constexpr std::string_view kRuleNames[] = {"auto",     "one_to_one", "average", "copy",
                                           "left_pad", "right_pad",  "subset"};

// Words with other senses: an edit of the token changes them all.
constexpr std::pair<std::string_view, std::string_view> kOtherSenses[] = {
    {"turkey", "the bird"},
    {"jordan", "the river and the given name"},
    {"chad", "the given name"},
    {"georgia", "the US state"},
    {"bank", "the house of money and the side of a river"},
    {"china", "the porcelain"}};

std::string quoted_pieces(const Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  std::string text;
  for (const std::int32_t id : ids)
    text += fmt::format("{}\"{}\"", text.empty() ? "" : " ", tokenizer.token_bytes(id));
  return text;
}

std::vector<std::string> known_words(const Tokenizer& tokenizer) {
  std::vector<std::string> words;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.has_token(id)) continue;
    const std::string bytes = tokenizer.token_bytes(id);
    if (bytes.size() > 3 && bytes[0] == ' ' && std::isupper(static_cast<unsigned char>(bytes[1])))
      words.push_back(bytes.substr(1));
  }
  return words;
}

// Token ids of one spelling; throws when a word of it falls into pieces and pieces are not wanted.
std::vector<std::int32_t> tokens_of(const Tokenizer& tokenizer, std::string_view text,
                                    std::string_view option, bool pieces) {
  const std::vector<std::int32_t> ids = tokenizer.encode(text, false);
  if (ids.empty()) fail(ErrorCode::kUsage, "{}: expected a name, found an empty text", option);
  if (pieces) return ids;
  const auto spaces = static_cast<std::size_t>(std::count(text.begin() + 1, text.end(), ' '));
  if (ids.size() > spaces + 1) {
    const std::string name(text.front() == ' ' ? text.substr(1) : text);
    fail(ErrorCode::kNotFound,
         "{}: \"{}\" has no row of its own in this model: the tokenizer cuts it into {}{} (--pieces edits "
         "the pieces)",
         option, name, quoted_pieces(tokenizer, ids), did_you_mean(name, known_words(tokenizer)));
  }
  return ids;
}

// Mean of the tokens' records: [S·F] f32.
std::vector<float> mean_record(const Table& table, std::span<const std::int32_t> donors) {
  const TableShape& shape = table.shape();
  std::vector<float> mean(static_cast<std::size_t>(shape.record()), 0.0f),
      row(static_cast<std::size_t>(shape.width));
  for (const std::int32_t donor : donors) {
    for (std::int64_t s = 0; s < shape.layers; ++s) {
      table.read_row(donor, s, row);
      for (std::size_t i = 0; i < row.size(); ++i)
        mean[static_cast<std::size_t>(s) * row.size() + i] += row[i];
    }
  }
  if (donors.size() > 1) {
    for (float& value : mean) value /= static_cast<float>(donors.size());
  }
  return mean;
}

// A swap between words that the reference text hardly has stands on guesses.
void note_guesses(const ReferenceRows& reference, const Tokenizer& tokenizer, SwapPlan& plan) {
  std::set<std::int32_t> tokens(plan.donor_tokens.begin(), plan.donor_tokens.end());
  tokens.insert(plan.slot_tokens.front().begin(), plan.slot_tokens.front().end());
  for (const std::int32_t token : tokens) {
    if (reference.occurrences[static_cast<std::size_t>(token)] == 0)
      plan.notes.push_back(
          fmt::format("\"{}\" never occurs in the text that the reference rows are from: its row is a "
                      "guess from its embedding",
                      tokenizer.token_bytes(token)));
  }
}

void append_rows(const SwapSource& source, const std::vector<std::int32_t>& slots,
                 const std::vector<std::vector<std::int32_t>>& donors, std::span<const std::int64_t> chosen,
                 std::vector<OverlayRow>& rows) {
  const std::int64_t f = source.table.shape().width;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::vector<float> record = swapped_record(source, slots[i], donors[i]);
    for (const std::int64_t s : chosen) {
      OverlayRow row;
      row.token = slots[i];
      row.layer = static_cast<std::int32_t>(s);
      row.trigger.assign(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(i));
      row.values.assign(record.begin() + s * f, record.begin() + (s + 1) * f);
      rows.push_back(std::move(row));
    }
  }
}

// Adds rows for every spelling of `name`, each reading `donors`; returns the tokens of those covered, the
// main one first.
std::vector<std::vector<std::int32_t>> cover_spellings(const SwapSource& source, const Tokenizer& tokenizer,
                                                       const SwapRequest& request, const std::string& name,
                                                       const std::vector<std::int32_t>& donors,
                                                       std::span<const std::int64_t> chosen, SwapPlan& plan) {
  const std::int32_t pad = tokenizer.token_id("<|pad|>").value_or(tokenizer.eos_id().value_or(0));
  std::vector<std::vector<std::int32_t>> covered;
  for (const std::string& spelling : spellings_of(name)) {
    std::vector<std::int32_t> slots;
    if (covered.empty()) {
      slots = tokens_of(tokenizer, spelling, "--slot", request.pieces);
    } else {
      slots = tokenizer.encode(spelling, false);
      if (slots.size() != covered.front().size()) {
        plan.notes.push_back(fmt::format("the spelling \"{}\" is {} token{} and keeps its own rows", spelling,
                                         slots.size(), slots.size() == 1 ? "" : "s"));
        continue;
      }
    }
    if (slots == donors) {
      fail(ErrorCode::kUsage, "--donor: expected another token than the slot's, found \"{}\" for both",
           std::string_view(spelling).substr(spelling.front() == ' ' ? 1 : 0));
    }
    if (std::find(covered.begin(), covered.end(), slots) != covered.end()) continue;
    append_rows(source, slots, donors_of_slots(request.rule, slots.size(), donors, pad), chosen, plan.rows);
    plan.spellings.push_back(spelling);
    covered.push_back(std::move(slots));
  }
  return covered;
}

// Spellings and names that share a first piece name its row more than once; one that is to be two rows cannot
// be.
void keep_one_of_each(const Tokenizer& tokenizer, std::vector<OverlayRow>& rows) {
  std::map<std::tuple<std::int32_t, std::int32_t, std::vector<std::int32_t>>, std::vector<float>> seen;
  std::erase_if(rows, [&](const OverlayRow& row) {
    const auto [at, first] = seen.emplace(std::tuple(row.token, row.layer, row.trigger), row.values);
    if (!first && at->second != row.values)
      fail(ErrorCode::kUsage,
           "--donor: expected names of different tokens, found \"{}\" at the same place in both",
           tokenizer.token_bytes(row.token));
    return !first;
  });
}

}  // namespace

std::string_view name_of(SpanRule rule) {
  return kRuleNames[static_cast<std::size_t>(rule)];
}

SpanRule span_rule_from(std::string_view name) {
  for (std::size_t i = 0; i < std::size(kRuleNames); ++i) {
    if (kRuleNames[i] == name) return static_cast<SpanRule>(i);
  }
  fail(ErrorCode::kUsage, "--rule: expected one of {}, found \"{}\"", fmt::join(kRuleNames, ", "), name);
}

std::vector<std::vector<std::int32_t>> donors_of_slots(SpanRule rule, std::size_t slots,
                                                       std::span<const std::int32_t> donors,
                                                       std::int32_t pad) {
  const std::size_t n = donors.size();
  if (rule == SpanRule::automatic) rule = slots == n ? SpanRule::one_to_one : SpanRule::average;
  const auto needs = [&](bool fits, std::string_view relation) {
    if (!fits) {
      fail(ErrorCode::kUsage, "--rule {}: expected {}, found {} slot and {} donor tokens", name_of(rule),
           relation, slots, n);
    }
  };
  std::vector<std::vector<std::int32_t>> plan(slots);
  const std::size_t fill = slots > n ? slots - n : 0;
  switch (rule) {
    case SpanRule::one_to_one:
      needs(slots == n, "as many slot as donor tokens");
      break;
    case SpanRule::left_pad:
    case SpanRule::right_pad:
      needs(slots > n, "more slot than donor tokens");
      break;
    case SpanRule::subset:
      needs(slots < n, "fewer slot than donor tokens");
      break;
    default:
      break;
  }
  for (std::size_t i = 0; i < slots; ++i) {
    switch (rule) {
      case SpanRule::average:
        plan[i].assign(donors.begin(), donors.end());
        break;
      case SpanRule::left_pad:
        plan[i] = {i < fill ? pad : donors[i - fill]};
        break;
      case SpanRule::right_pad:
        plan[i] = {i < n ? donors[i] : pad};
        break;
      case SpanRule::subset:
        plan[i] = {donors[n - slots + i]};
        break;
      default:
        plan[i] = {donors[i % n]};
        break;
    }
  }
  return plan;
}

std::vector<float> swapped_record(const SwapSource& source, std::int32_t slot,
                                  std::span<const std::int32_t> donors) {
  if (source.reference == nullptr) return mean_record(source.table, donors);
  const std::vector<float> own = mean_record(source.reference->means, {&slot, 1}),
                           other = mean_record(source.reference->means, donors);
  std::vector<float> record = mean_record(source.table, {&slot, 1});
  for (std::size_t i = 0; i < record.size(); ++i) record[i] += other[i] - own[i];
  return record;
}

std::vector<std::string> spellings_of(std::string_view name) {
  if (name.starts_with(' ')) return {std::string(name)};
  std::string lower(name), upper(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  std::vector<std::string> all;
  for (const std::string& form : {std::string(name), lower, upper}) {
    for (const std::string& spelling : {" " + form, form}) {
      if (std::find(all.begin(), all.end(), spelling) == all.end()) all.push_back(spelling);
    }
  }
  return all;
}

SwapPlan plan_swap(const SwapSource& source, const Tokenizer& tokenizer,
                   std::span<const std::int64_t> stem_layers, const SwapRequest& request) {
  if (stem_layers.empty()) fail(ErrorCode::kUsage, "this model has no STEM table: there are no rows to swap");
  if (!source.table.present() && source.reference == nullptr) {
    fail(ErrorCode::kUsage,
         "every row of this model is zero, and it has no reference rows: a swap would change nothing "
         "(stem attach-rows MODEL --calibrate TEXT makes them)");
  }
  if (request.slot.empty()) fail(ErrorCode::kUsage, "--slot: expected a name, found an empty text");
  if (request.donors.empty()) fail(ErrorCode::kUsage, "--donor: expected at least one name");
  std::vector<std::int64_t> chosen;
  for (std::size_t s = 0; s < stem_layers.size(); ++s) {
    if (!request.layers ||
        (stem_layers[s] >= request.layers->first && stem_layers[s] <= request.layers->second))
      chosen.push_back(static_cast<std::int64_t>(s));
  }
  if (chosen.empty()) {
    fail(ErrorCode::kUsage, "--layers: expected a range that holds one of the STEM layers {}, found {}-{}",
         fmt::join(stem_layers, ", "), request.layers->first, request.layers->second);
  }
  std::vector<std::int32_t> donors;
  for (const std::string& donor : request.donors) {
    if (donor.empty()) fail(ErrorCode::kUsage, "--donor: expected a name, found an empty text");
    const std::string text = donor.starts_with(' ') ? donor : " " + donor;
    const auto ids = tokens_of(tokenizer, text, "--donor", request.pieces);
    donors.insert(donors.end(), ids.begin(), ids.end());
  }

  SwapPlan plan;
  plan.donor_tokens = donors;
  plan.slot_tokens = cover_spellings(source, tokenizer, request, request.slot, donors, chosen, plan);
  const std::vector<std::int32_t> slots = plan.slot_tokens.front();
  if (request.exchange) {
    if (request.donors.size() > 1)
      fail(ErrorCode::kUsage, "exchange: expected one --donor, found {}", request.donors.size());
    cover_spellings(source, tokenizer, request, request.donors.front(), slots, chosen, plan);
  }
  keep_one_of_each(tokenizer, plan.rows);
  if (source.reference != nullptr) note_guesses(*source.reference, tokenizer, plan);
  const std::vector<std::int32_t>& primary = plan.slot_tokens.front();
  if (primary.size() > 1) {
    plan.notes.push_back(
        fmt::format("the slot's first token \"{}\" also begins other names: they read the edited row too",
                    tokenizer.token_bytes(primary.front())));
  }
  std::string lower = spellings_of(request.slot)[0].substr(1);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const auto& [word, sense] : kOtherSenses) {
    if (lower == word)
      plan.notes.push_back(
          fmt::format("\"{}\" has another sense ({}): it reads the same row", request.slot, sense));
  }
  return plan;
}

}  // namespace stem
