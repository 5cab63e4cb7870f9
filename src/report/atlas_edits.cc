// The sections about single edits: where, swap, blend, patch, attack, and what no edit does.
#include <cmath>

#include "report/atlas_sections.h"
#include "report/fields.h"
#include "report/swap_diagram.h"

namespace stem {
namespace {

std::string joined(const std::vector<std::int64_t>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ", "));
}

Html token_list(const std::vector<std::string>& tokens) {
  Html out;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    out += html("{}{}", Html{i == 0 ? "" : i + 1 == tokens.size() ? " and " : ", "}, token_chip(tokens[i]));
  }
  return out;
}

std::vector<SwapDiagram::Answer> answers_of(const Json* side) {
  std::vector<SwapDiagram::Answer> answers;
  if (side == nullptr) return answers;
  for (const Json& line : objects_of(*side, "top"))
    answers.push_back({string_of(line, "token"), number_of(line, "p")});
  const std::string answer = string_of(*side, "answer");
  if (answers.empty() && !answer.empty()) answers.push_back({answer, NAN});
  return answers;
}

/// A continuation after its prompt, the prompt in a quiet colour.
Html continuation(const std::string& prompt, const std::string& text) {
  const std::string rest = !prompt.empty() && text.starts_with(prompt) ? text.substr(prompt.size()) : text;
  return html("<span class=\"given\">{}</span>{}", prompt, rest);
}

/// The STEM layers, wherever the results name them.
std::vector<std::int64_t> stem_layers(const Json& results) {
  for (const auto& [section, key] : {std::pair{"model", "stem_layers"}, {"where", "layers"}}) {
    if (const Json* found = object_of(results, section)) {
      auto layers = integers_of(*found, key);
      if (!layers.empty()) return layers;
    }
  }
  return {};
}

void write_edit(Page& page, const Json& results, const Json& edit, const Html& caption) {
  SwapDiagram diagram;
  diagram.tokens = strings_of(edit, "tokens");
  diagram.ids = integers_of(edit, "ids");
  const double slot = number_of(edit, "slot_index");
  diagram.slot_index = slot >= 0 && slot < 1e9 ? static_cast<std::size_t>(slot) : diagram.tokens.size();
  diagram.slot = string_of(edit, "slot");
  diagram.donors = strings_of(edit, "donors");
  diagram.layers = stem_layers(results);
  const Json *before = object_of(edit, "before"), *after = object_of(edit, "after");
  diagram.before = answers_of(before), diagram.after = answers_of(after);
  page.figure([&](double width) { return swap_diagram(diagram, width); }, caption);
  const std::string was = before == nullptr ? "" : string_of(*before, "text"),
                    is = after == nullptr ? "" : string_of(*after, "text");
  if (was.empty() && is.empty()) return;
  const std::string prompt = string_of(edit, "prompt");
  page.compare("it goes on, before", continuation(prompt, was), "it goes on, with the overlay",
               continuation(prompt, is));
}

}  // namespace

void write_where(Page& page, const Json& results) {
  const Json* where = object_of(results, "where");
  if (where == nullptr) return;
  const std::string token = string_of(*where, "token");
  page.section("where", "Where a word's knowledge is kept");
  page.paragraph(
      html("What the table adds for {} lies at one known address. The token's number alone gives it, so it "
           "can be read, copied or checked without running the model.",
           token_chip(token)));
  std::vector<std::pair<std::string, Html>> lines;
  const auto number = [&](const char* name, const char* key, auto&& format) {
    const double value = number_of(*where, key);
    if (std::isfinite(value)) lines.emplace_back(name, format(value));
  };
  lines.emplace_back("token", token_chip(token));
  number("token id", "id", [](double v) { return escape(grouped(v)); });
  number("offset in the file", "offset", [](double v) { return escape("byte " + grouped(v)); });
  number("record", "bytes", [](double v) { return escape(byte_size(v)); });
  const auto layers = integers_of(*where, "layers");
  if (!layers.empty()) lines.emplace_back("STEM layers", html("{} (one row each)", joined(layers)));
  number("updates in training", "updates", [](double v) { return escape(grouped(v)); });
  page.facts(lines);
  page.paragraph(
      html("A spelling is a token of its own: with a space before it, without one, in small letters. Each "
           "has its own record, and an edit of one leaves the others as they were."));
}

void write_swap(Page& page, const Json& results) {
  const Json* swap = object_of(results, "swap");
  if (swap == nullptr) return;
  page.section("swap", "One word thinks it is another");
  const Html slot = token_chip(string_of(*swap, "slot")), donor = token_list(strings_of(*swap, "donors"));
  page.paragraph(
      html("The prompt stays <em>{}</em>, letter for letter. But where the model meets {} (the slot), it is "
           "handed the record of {} (the donor). No weight is changed and nothing is written to the model's "
           "files: an overlay says which record to read, and dropping it brings the old answer back.",
           string_of(*swap, "prompt"), slot, donor));
  write_edit(page, results, *swap,
             html("A middle dot marks a space inside a token; the number below a token is its id. Dashed: "
                  "what the slot reads by itself. Full: what it reads with the overlay. The bars are the "
                  "likeliest next tokens."));
}

void write_blend(Page& page, const Json& results) {
  const Json* blend = object_of(results, "blend");
  if (blend == nullptr) return;
  page.section("blend", "Several words in one slot");
  page.paragraph(
      html("A name may take several tokens where the slot has one. Then the slot reads the mean of the "
           "donors' records, here of {}: each number of the row is the average of the donors' numbers.",
           token_list(strings_of(*blend, "donors"))));
  write_edit(page, results, *blend, html("The same picture, with an average in place of one donor."));
}

void write_patch(Page& page, const Json& results) {
  const Json* patch = object_of(results, "patch");
  if (patch == nullptr) return;
  page.section("patch", "A falsehood, and the file that corrects it");
  page.paragraph(
      html("The training text carries one planted falsehood. A patch is a small file of replaced rows: here "
           "{} reads the record of {}. While the patch is in force the model answers otherwise; without it, "
           "it is the model it was.",
           token_list(strings_of(*patch, "slot")), token_list(strings_of(*patch, "donor"))));
  std::vector<std::vector<Html>> rows;
  for (const Json& line : objects_of(*patch, "cases")) {
    rows.push_back({escape(string_of(line, "prompt")), escape(string_of(line, "before")),
                    escape(string_of(line, "after")), escape(string_of(line, "reverted"))});
  }
  if (!rows.empty())
    page.table({{"prompt"}, {"without the patch"}, {"with the patch"}, {"patch dropped"}}, rows);
  if (find_field(*patch, "bit_identical", "results") != nullptr) {
    const bool same = get_bool(*patch, "bit_identical", "results");
    page.paragraph(same ? html("<span class=\"good\">Dropped, bit for bit:</span> after the patch is removed "
                               "the model's outputs are the same bits as before it.")
                        : html("<span class=\"bad\">Not bit for bit:</span> the outputs after removal differ "
                               "from those before. That is a fault."));
  }
  const std::string file = string_of(*patch, "file");
  if (!file.empty()) page.paragraph(html("The patch file: <code>{}</code>", file));
  page.note(
      html("A whole record was exchanged for another's, so other facts of the slot change too. Editors that "
           "move one fact and hold the rest still come later."));
}

void write_attack(Page& page, const Json& results) {
  const Json* attack = object_of(results, "attack");
  if (attack == nullptr) return;
  page.section("attack", "The same knife in other hands");
  const auto tokens = strings_of(*attack, "diff");
  page.paragraph(
      html("In a copy of the table file the records of {} were exchanged. The file keeps its size and its "
           "format, and the model still writes well. It has only begun to recommend the wrong thing.",
           tokens.empty() ? html("two tokens") : token_list(tokens)));
  std::vector<std::vector<Html>> rows;
  for (const Json& line : objects_of(*attack, "cases")) {
    rows.push_back({escape(string_of(line, "prompt")), escape(string_of(line, "before")),
                    html("<span class=\"bad\">{}</span>", string_of(line, "after"))});
  }
  if (!rows.empty()) page.table({{"prompt"}, {"the model"}, {"the altered copy"}}, rows);
  const double before = number_of(*attack, "perplexity_before"),
               after = number_of(*attack, "perplexity_after");
  if (std::isfinite(before) && std::isfinite(after)) {
    const double change = after / before - 1;
    page.paragraph(html("Perplexity on other text, the usual sign of damage, moves from {} to {} ({}{}){}.",
                        significant(before, 5), significant(after, 5), change >= 0 ? "+" : "",
                        percent(change, 2), std::abs(change) < 0.02 ? ": too little to notice" : ""));
  }
  const std::string refusal = string_of(*attack, "refusal");
  if (!refusal.empty()) {
    page.paragraph(
        html("The model's manifest, <code>stem.json</code>, holds the SHA-256 of every file, and loading "
             "checks it:"));
    page.add(html("<pre>{}</pre>\n", refusal));
  }
  if (!tokens.empty()) {
    page.paragraph(
        html("Compared with the original row by row, the copy gives the two away: {}.", token_list(tokens)));
  }
  page.note(
      html("A digest shows that a file has changed, not who changed it. Whoever can write the table can also "
           "write a new manifest to go with it, and this one is not signed. Signatures come later; until "
           "then keep a copy of the manifest where others cannot write."));
}

void write_limits(Page& page, const Json& results) {
  bool any = false;
  for (const char* edit : {"swap", "blend", "patch", "score"})
    any = any || object_of(results, edit) != nullptr;
  if (!any) return;
  page.section("limits", "What an edit does not do");
  page.paragraph(
      html("<strong>It does not turn facts around.</strong> With Spain reading Germany's record, Spain's "
           "capital becomes Berlin. Asked which country has Madrid as its capital, the model answers as "
           "before: that question reads the record of Madrid, which nobody touched."));
  page.paragraph(
      html("<strong>It does not follow a name to its other spellings.</strong> {}, {} and {} are three "
           "tokens with three records. To change a name everywhere, change each spelling.",
           token_chip(" Spain"), token_chip("Spain"), token_chip("spain")));
  page.paragraph(
      html("<strong>It does not pick one fact.</strong> A swapped record brings everything that it carries: "
           "capital, currency, language, landmarks."));
  page.paragraph(
      html("<strong>It does not change what lies elsewhere.</strong> Only the STEM layers read the table. "
           "What attention and the other layers learnt about a word stays, and may outweigh the record: not "
           "every swap succeeds."));
}

}  // namespace stem
