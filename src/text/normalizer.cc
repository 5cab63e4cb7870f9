#include "text/normalizer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"

namespace stem {
namespace {

constexpr int kMaxDepth = 8;  // of Sequences within Sequences
constexpr std::size_t kMaxSteps = 64;
constexpr std::size_t kMaxContentBytes = 256;

}  // namespace

Normalizer::Normalizer(const Json* json, std::string_view name) {
  if (json != nullptr) add(*json, name, 0);
}

void Normalizer::add(const Json& json, std::string_view name, int depth) {
  const std::string type = get_string(json, "type", name);
  if (steps_.size() >= kMaxSteps) fail(ErrorCode::kFormat, "{}: more than {} steps", name, kMaxSteps);
  if (type == "NFC") {
    steps_.push_back({Step::Kind::kNfc, {}, {}});
  } else if (type == "Prepend") {
    steps_.push_back({Step::Kind::kPrepend, get_string(json, "prepend", name, kMaxContentBytes), {}});
  } else if (type == "Replace") {
    Step step{Step::Kind::kReplace, get_string(json, "content", name, kMaxContentBytes), {}};
    step.pattern.push_back(read_pattern(json, name));
    steps_.push_back(std::move(step));
  } else if (type == "Sequence" && depth < kMaxDepth) {
    for (const Json& step : get_array(json, "normalizers", name, kMaxSteps)) add(step, name, depth + 1);
  } else {
    fail(ErrorCode::kFormat, "{}: type: expected NFC, Prepend, Replace or a Sequence of them, found {}", name,
         shown(type));
  }
}

bool Normalizer::keeps(std::string_view text) const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [&](const Step& step) { return step.kind == Step::Kind::kNfc && surely_nfc(text); });
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kNfc:
        if (!surely_nfc(out)) out = to_nfc(out);
        break;
      case Step::Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.content);
        break;
      case Step::Kind::kReplace: {
        std::string replaced;
        replaced.reserve(out.size());
        step.pattern.front().for_each_span(out, [&](Span span, bool is_match) {
          if (is_match) {
            replaced += step.content;
          } else {
            replaced.append(out, span.begin, span.end - span.begin);
          }
        });
        out = std::move(replaced);
        break;
      }
    }
  }
  return out;
}

}  // namespace stem
