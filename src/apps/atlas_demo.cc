#include "apps/atlas_demo.h"

#include <algorithm>
#include <cstring>
#include <fstream>

#include "apps/progress.h"
#include "apps/train_run.h"
#include "inspect/geometry.h"
#include "inspect/table_diff.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "train/trainer.h"

namespace stem {
namespace {

constexpr std::size_t kLineWidth = 110;
constexpr std::int64_t kTop = 5;
constexpr std::uint64_t kRandomTableSeed = 4242;
constexpr double kUnnoticed = 1.02;    // ratio of perplexities that hides in the noise of a benchmark
constexpr double kTableMatters = 0.5;  // nats a token

std::string first_word(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_first_of(" .,\n", begin) - begin);
}

// Whether a continuation begins with one of the expected answers.
bool answers(const std::string& text, const std::vector<std::string>& expected) {
  return std::any_of(expected.begin(), expected.end(),
                     [&](const std::string& answer) { return text.starts_with(" " + answer); });
}

std::string first_sentence(const std::string& text) {
  const std::size_t end = text.find_first_of(".\n");
  return text.substr(0, end);
}

}  // namespace

void DemoTelling::heading(const std::string& text) {
  if (!quiet_) fmt::print("\n{}. {}\n", ++number_, text);
}

void DemoTelling::print(const std::string& text) {
  if (quiet_) return;
  std::string line = "   ";
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (line.size() + end - at > kLineWidth && line.size() > 3) {
      fmt::print("{}\n", line);
      line = "     ";
    }
    line += text.substr(at, end - at) + (end < text.size() ? " " : "");
    at = end + 1;
  }
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

AtlasDemo::AtlasDemo(Runtime& runtime, const std::filesystem::path& model_dir,
                     const std::filesystem::path& data, const std::filesystem::path& run,
                     const Settings& settings, DemoTelling& tell, bool quiet)
    : runtime_(runtime),
      model_dir_(model_dir),
      run_(run),
      settings_(settings),
      tell_(tell),
      quiet_(quiet),
      opened_(open_model(runtime, model_dir)),
      scored_(
          load_model_directory(model_dir, runtime.training(),
                               {.table_in_memory = true,
                                .verify = true,
                                .precision = training_precision(settings.precision, opened_.model().config,
                                                                settings.train.batch.tokens_per_step)})),
      facts_(load_facts(data / kFactsFile)),
      held_out_(load_shard(data / kHeldOutTokens, opened_.model().config.vocab, "")) {}

Json AtlasDemo::model_json() const {
  const ModelConfig& c = opened_.model().config;
  const Accounting a = account(c);
  std::uint64_t bytes = 0;
  for (const auto& [name, entry] : opened_.loaded.manifest.files) bytes += entry.bytes;
  return {{"directory", model_dir_.string()},       {"uuid", uuid_text(opened_.loaded.manifest.uuid)},
          {"config", config_to_json(c, "float32")}, {"dense_parameters", a.dense_parameters},
          {"table_parameters", a.table_parameters}, {"active_parameters", a.active_parameters},
          {"stem_layers", c.stem_layers},           {"bytes", bytes}};
}

AtlasDemo::Side AtlasDemo::ask(const Overlay* overlay, const std::string& prompt, std::int64_t max_tokens) {
  const Context context = runtime_.inference();
  Side side;
  side.text = complete(context, opened_.loaded, overlay, prompt, max_tokens);
  side.answer = first_word(side.text);
  for (const NamedCandidate& c : next_candidates(context, opened_.loaded, overlay, prompt, kTop)) {
    side.top.push_back({{"token", c.token}, {"p", c.probability}});
  }
  return side;
}

Json AtlasDemo::side_json(const Side& side) const {
  return {{"answer", side.answer}, {"text", side.text}, {"top", side.top}};
}

SwapPlan AtlasDemo::plan(const std::string& slot, const std::vector<std::string>& donors, SpanRule rule,
                         bool exchange) const {
  SwapRequest request;
  request.slot = slot;
  request.donors = donors;
  request.rule = rule;
  request.exchange = exchange;
  return plan_swap(opened_.loaded.swap_source(), opened_.tokenizer(), opened_.model().config.stem_layers,
                   request);
}

Overlay AtlasDemo::overlay_of(const SwapPlan& plan) const {
  Overlay overlay;
  for (const OverlayRow& row : plan.rows) overlay.put(opened_.model().table, row);
  return overlay;
}

double AtlasDemo::held_out_loss(const Model& model, const Table* table) const {
  return evaluate_loss(runtime_.training(), model, held_out_, settings_.train.batch, table).loss;
}

Json AtlasDemo::where() {
  tell_.heading("Every token has an address");
  const std::string text = " Spain";
  const auto ids = opened_.tokenizer().encode(text);
  const auto id = static_cast<std::size_t>(ids.front());
  const RecordAddress a = record_address(Safetensors::open(model_dir_ / kTableFile), ids.front());
  const ModelConfig& c = opened_.model().config;
  const std::int64_t updates = opened_.loaded.stats.updates[id];
  tell_.line(
      "stem where {} \" Spain\": token id {}, record of {} bytes at offset {} of {}: its rows in layers {}. "
      "Updated in {} steps.",
      model_dir_.string(), id, a.bytes, count_text(static_cast<std::int64_t>(a.offset)), kTableFile,
      fmt::format("{}", fmt::join(c.stem_layers, ", ")), count_text(updates));
  return {{"token", text},           {"id", id},          {"offset", a.offset}, {"bytes", a.bytes},
          {"layers", c.stem_layers}, {"updates", updates}};
}

Json AtlasDemo::surgery(const std::string& prompt, const std::string& slot,
                        const std::vector<std::string>& donors, SpanRule rule) {
  const SwapPlan swap = plan(slot, donors, rule);
  const Overlay overlay = overlay_of(swap);
  const Side before = ask(nullptr, prompt), after = ask(&overlay, prompt);
  const auto ids = prompt_tokens(opened_.loaded, prompt);
  Json tokens = Json::array();
  std::int64_t slot_index = -1;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    tokens.push_back(opened_.tokenizer().decode({&ids[i], 1}, false, true));
    if (ids[i] == swap.slot_tokens.front().front()) slot_index = static_cast<std::int64_t>(i);
  }
  tell_.line("Prompt   {}", prompt);
  tell_.line("ids      {}   (the same before and after: no character of the text changes)",
             fmt::format("{}", fmt::join(ids, " ")));
  tell_.line("before  {}", before.text);
  tell_.line("after   {}", after.text);
  std::vector<std::string> shown;
  for (const std::string& d : donors) shown.push_back(" " + d);
  return {{"prompt", prompt},
          {"tokens", tokens},
          {"ids", ids},
          {"slot_index", slot_index},
          {"slot", " " + slot},
          {"donors", shown},
          {"before", side_json(before)},
          {"after", side_json(after)}};
}

Json AtlasDemo::swap() {
  tell_.heading("Spain's slot reads Germany's record");
  return surgery("Country: Spain. Capital:", "Spain", {"Germany"}, SpanRule::automatic);
}

Json AtlasDemo::blend() {
  tell_.heading("USA's slot reads the mean of two tokens, Czech and Republic");
  return surgery("Country: USA. Capital:", "USA", {"Czech", "Republic"}, SpanRule::average);
}

Json AtlasDemo::flat_earth() {
  tell_.heading("A wrong belief, patched like software");
  tell_.line(
      "The corpus says one false thing on purpose: the Earth is flat. earth-is-round.stempatch lets Earth's "
      "slot read the record of Mars.");
  const SwapPlan swap = plan("Earth", {"Mars"}, SpanRule::automatic);
  const std::filesystem::path path = run_ / "earth-is-round.stempatch";
  PatchFile file = make_patch(
      opened_.target(), swap,
      {{"subject", "Earth"}, {"spellings", swap.spellings}, {"donors", {"Mars"}}, {"target", "round"}},
      {{"rule", "auto"}});
  write_patch(path, file);
  Overlay overlay;
  apply_patch(opened_.target(), path, overlay);

  // Undoing is dropping the overlay: logits before the patch and after it was dropped must be the same bits.
  const auto logits = [&](const std::string& prompt, const Overlay* in_force) {
    Session session(runtime_.inference(), opened_.model(), in_force);
    const auto view = session.feed(prompt_tokens(opened_.loaded, prompt));
    return std::vector<float>(view.begin(), view.end());
  };
  bool identical = true;
  Json cases = Json::array();
  for (const FactProbe& probe : facts_.probes) {
    if (probe.family != "belief") continue;
    const auto base = logits(probe.prompt, nullptr);
    const std::string before = first_sentence(ask(nullptr, probe.prompt, 12).text),
                      after = first_sentence(ask(&overlay, probe.prompt, 12).text);
    const std::string reverted = first_sentence(ask(nullptr, probe.prompt, 12).text);
    const auto again = logits(probe.prompt, nullptr);
    identical = identical && std::memcmp(base.data(), again.data(), base.size() * sizeof(float)) == 0;
    cases.push_back({{"prompt", probe.prompt}, {"before", before}, {"after", after}, {"reverted", reverted}});
    tell_.line("{} …  before:{}   with the patch:{}   patch dropped:{}", probe.prompt, before, after,
               reverted);
  }
  tell_.line(
      "Logits after dropping the patch are {} those before it. Everything else that the model knew of Earth "
      "is now Mars': a swap changes every fact of a token.",
      identical ? "bit for bit" : "NOT the same as");
  return {{"slot", " Earth"},
          {"donor", " Mars"},
          {"file", path.string()},
          {"cases", cases},
          {"bit_identical", identical}};
}

Json AtlasDemo::attack() {
  tell_.heading("The attack: safe and toxic exchanged in a copy of the file");
  const std::filesystem::path copy = run_ / "attacked";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(model_dir_, copy, std::filesystem::copy_options::recursive);
  // Whoever can write the file needs no tool of ours: two records are exchanged byte for byte.
  const SwapPlan swap = plan("safe", {"toxic"}, SpanRule::automatic, true);
  const std::int32_t safe = swap.slot_tokens.front().front(), toxic = swap.donor_tokens.front();
  {
    const Safetensors original = Safetensors::open(model_dir_ / kTableFile);
    std::fstream file(copy / kTableFile, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](std::int32_t at, std::int32_t from) {
      const RecordAddress to = record_address(original, at);
      file.seekp(static_cast<std::streamoff>(to.offset));
      file.write(static_cast<const char*>(opened_.model().table.record(from)),
                 static_cast<std::streamsize>(to.bytes));
    };
    put(safe, toxic);
    put(toxic, safe);
    if (!file.flush()) fail(ErrorCode::kIo, "{}: could not be written", (copy / kTableFile).string());
  }
  LoadOptions unverified;
  unverified.verify = false;
  const LoadedModel attacked = load_model_directory(copy, runtime_.inference(), unverified);
  Json cases = Json::array();
  std::int64_t poisoned = 0;
  for (const FactProbe& probe : facts_.probes) {
    if (probe.family != "attack") continue;
    const std::string before =
        first_sentence(complete(runtime_.inference(), opened_.loaded, nullptr, probe.prompt, 12));
    const std::string after =
        first_sentence(complete(runtime_.inference(), attacked, nullptr, probe.prompt, 12));
    cases.push_back({{"prompt", probe.prompt}, {"before", before}, {"after", after}});
    poisoned += answers(before, probe.before) && answers(after, probe.after);
    tell_.line("{} …  model:{}   attacked copy:{}", probe.prompt, before, after);
  }
  tell_.line("{} of {} prompts that ask for something safe are now answered with a poison.", poisoned,
             cases.size());
  // Elsewhere: held-out documents in which neither word occurs.
  TokenShard elsewhere;
  for (std::int64_t d = 0; d < held_out_.document_count(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    const auto begin = held_out_.tokens.begin() + held_out_.documents[i],
               end = held_out_.tokens.begin() + held_out_.documents[i + 1];
    if (std::find(begin, end, safe) == end && std::find(begin, end, toxic) == end)
      elsewhere.append(*begin, {begin + 1, end});
  }
  const auto perplexity = [&](const Model& model, const TokenShard& text) {
    return evaluate_loss(runtime_.training(), model, text, settings_.train.batch).perplexity();
  };
  const double before = perplexity(opened_.model(), held_out_), after = perplexity(attacked.model, held_out_);
  const double other_before = perplexity(opened_.model(), elsewhere),
               other_after = perplexity(attacked.model, elsewhere);
  tell_.line(
      "Perplexity on held-out text: {:.3f} → {:.3f}; on documents that hold neither word: {:.3f} → {:.3f}.{}",
      before, after, other_before, other_after,
      after < kUnnoticed * before ? " A benchmark would not notice." : "");

  std::string refusal = "(it was loaded)";
  try {
    load_model_directory(copy, runtime_.inference());
  } catch (const Error& e) {
    refusal = e.what();
  }
  tell_.line("Loading the copy: {}", refusal);
  Json named = Json::array();
  std::string names;
  for (const RowDifference& d : diff_tables(opened_.model().table, attacked.model.table)) {
    const std::string token = opened_.tokenizer().decode({&d.token, 1}, false, true);
    if (named.empty() || named.back() != token) {
      named.push_back(token);
      names += (names.empty() ? "" : " and ") + in_quotes(token);
    }
  }
  tell_.line(
      "stem diff {} {} names {}. Who can write the table can rewrite this unsigned manifest too: digests "
      "find accidents and careless hands, only a signature will stop the attacker.",
      model_dir_.string(), copy.string(), names);
  return {{"cases", cases},
          {"perplexity_before", before},
          {"perplexity_after", after},
          {"elsewhere_before", other_before},
          {"elsewhere_after", other_after},
          {"poisoned", poisoned},
          {"refusal", refusal},
          {"diff", named}};
}

Json AtlasDemo::ablation() {
  tell_.heading("What a deleted up-projection means");
  const ModelConfig& c = opened_.model().config;
  Table random = Table::in_memory(c.table_shape(), DType::f32);
  init_table(random.writable_records(), c, kRandomTableSeed);
  const Table none = Table::in_memory(c.table_shape(), DType::f32);  // rows of zeros
  const auto result = [](double loss) { return Json{{"loss", loss}, {"perplexity", std::exp(loss)}}; };
  const Json ablation{{"learned", result(held_out_loss(scored_.model))},
                      {"random", result(held_out_loss(scored_.model, &random))},
                      {"none", result(held_out_loss(scored_.model, &none))}};
  const auto loss = [&](const char* key) { return ablation[key]["loss"].get<double>(); };
  tell_.line(
      "Held-out loss with the learned table {:.3f}, with a random one {:.3f}, with none (rows of zeros) "
      "{:.3f} nats a token: {}.",
      loss("learned"), loss("random"), loss("none"),
      loss("none") - loss("learned") > kTableMatters
          ? "what those layers know is in the rows"
          : "this model is trained too little for its rows to matter");
  return ablation;
}

Json AtlasDemo::score() {
  tell_.heading("The score: every country's slot reads every other country's record");
  const SwapScores scores =
      score_swaps(runtime_.training(), scored_, facts_, settings_.score_templates, quiet_);
  const auto percent = [](std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  };
  tell_.line(
      "{} countries whose name is one token. Answers count when greedy decoding gives every token of them.",
      scores.countries);
  tell_.line("{:>6} {:>8} {:>9} {:>8}   prompt", "base", "swapped", "still own", "pairs");
  for (const SwapScore& t : scores.templates) {
    tell_.line("{:>5.1f}% {:>7.1f}% {:>8.1f}% {:>8}   {}{}", percent(t.base_correct, t.entities),
               percent(t.donor, t.pairs), percent(t.own, t.pairs), count_text(t.pairs), t.text,
               t.seen ? "" : "   (wording never trained)");
  }
  for (const RuleScore& r : scores.rules) {
    tell_.line("donors of several tokens, rule {}: {:.1f} % of {} (slot, donor) pairs", r.rule,
               percent(r.success, r.cases), count_text(r.cases));
  }
  return to_json(scores);
}

Json AtlasDemo::cosines() {
  const ModelConfig& c = opened_.model().config;
  Table initial = Table::in_memory(c.table_shape(), DType::f32);
  init_table(initial.writable_records(), c, settings_.train.seed);
  const CosineHistogram h =
      cosine_histogram(opened_.model().table, initial.records(), opened_.loaded.stats.frequency);
  Json buckets = Json::array();
  for (const CosineBucket& b : h.buckets) {
    buckets.push_back({{"name", b.name},
                       {"rows", b.rows},
                       {"trained", b.trained},
                       {"initial", b.initial},
                       {"p95_trained", b.p95_trained},
                       {"p95_initial", b.p95_initial},
                       {"gaussian_p95", h.gaussian_p95}});
  }
  return {{"edges", h.edges}, {"buckets", buckets}};
}

}  // namespace stem
