#include "data/atlas_corpus.h"

#include <numeric>
#include <unordered_set>

#include "core/error.h"
#include "core/rng.h"
#include "data/atlas_subjects.h"
#include "data/atlas_suite.h"
#include "data/atlas_table.h"
#include "data/atlas_templates.h"

namespace stem {
namespace {

constexpr std::size_t kMaxDocuments = 10'000'000;
constexpr std::size_t kMaxShare = 1'000'000;

// Random streams of the generator, so that more training documents do not change the held-out ones' draws.
enum Stream : std::uint64_t { kTrainStream = 1, kHeldOutStream = 2, kHeldOutTemplateStream = 3 };

// A line of recipe.tsv: which group writes documents about which table's rows, and how often.
struct Topic {
  std::string group;
  std::string subjects;  // table name, or "none"
  std::string contrast;  // column in which a second subject must differ, or empty
  std::string agree;     // column in which it must agree then
  std::uint64_t share = 0;
};

std::vector<Topic> read_recipe(const std::filesystem::path& path, const AtlasTables& tables,
                               const AtlasTemplates& templates) {
  const AtlasTable recipe(path, {"group", "subjects", "contrast", "agree", "share"});
  std::vector<Topic> topics;
  for (std::size_t row = 0; row < recipe.size(); ++row) {
    Topic topic{recipe.cell(row, "group"), recipe.cell(row, "subjects"), recipe.cell(row, "contrast"),
                recipe.cell(row, "agree"), 0};
    topic.share = parse_count(recipe.cell(row, "share"), kMaxShare, recipe.where(row) + ": share");
    if (!templates.has_group(topic.group)) {
      fail(ErrorCode::kFormat, "{}: there is no group [{}]", recipe.where(row), topic.group);
    }
    if (topic.subjects != "none" && !tables.find(topic.subjects)) {
      fail(ErrorCode::kFormat, "{}: subjects: expected a table or none, found \"{}\"", recipe.where(row),
           topic.subjects);
    }
    for (const std::string& column : {topic.contrast, topic.agree}) {
      if (topic.contrast.empty() && column.empty()) continue;
      const AtlasTable* table = tables.find(topic.subjects);
      if (!table || !table->has_column(column)) {
        fail(ErrorCode::kFormat, "{}: contrast, agree: expected two columns of {}, found \"{}\"",
             recipe.where(row), topic.subjects, column);
      }
    }
    if (topic.share > 0) topics.push_back(std::move(topic));
  }
  if (topics.empty()) fail(ErrorCode::kFormat, "{}: expected a share above 0, found none", path.string());
  return topics;
}

// Writes documents of one use from one random stream.
class DocumentWriter {
 public:
  DocumentWriter(const AtlasTables& tables, const AtlasTemplates& templates, std::vector<Topic> topics,
                 AtlasUse use, Rng rng)
      : tables_(tables), templates_(templates), use_(use), rng_(rng) {
    for (Topic& topic : topics) {
      if (use == AtlasUse::kTrain || templates.has_held_out(topic.group)) topics_.push_back(std::move(topic));
    }
    decks_.resize(topics_.size());
    for (const Topic& topic : topics_) total_share_ += topic.share;
  }

  bool can_write() const { return total_share_ > 0; }

  std::string write() {
    std::uint64_t ticket = rng_.below(total_share_);
    std::size_t index = 0;
    while (ticket >= topics_[index].share) ticket -= topics_[index++].share;
    const Topic& topic = topics_[index];
    const AtlasSubjects subjects = draw_subjects(topic, decks_[index]);
    std::string document;
    if (!templates_.expand(topic.group, use_, subjects, rng_, document)) {
      fail(ErrorCode::kFormat, "group [{}]: expected a template that fits every row of {}, found none",
           topic.group, topic.subjects);
    }
    return document;
  }

 private:
  AtlasSubjects draw_subjects(const Topic& topic, std::vector<std::size_t>& deck) {
    AtlasSubjects subjects;
    if (topic.subjects == "none") return subjects;
    const AtlasTable& table = *tables_.find(topic.subjects);
    // A shuffled deck gives every row the same number of documents.
    if (deck.empty()) {
      deck.resize(table.size());
      std::iota(deck.begin(), deck.end(), std::size_t{0});
      shuffle(deck, rng_);
    }
    const std::size_t row = deck.back();
    deck.pop_back();
    subjects[""] = tables_.draw(topic.subjects, row, rng_);
    if (topic.contrast.empty()) {
      if (table.size() > 1) {
        const std::size_t other = (row + 1 + rng_.below(table.size() - 1)) % table.size();
        subjects["2"] = tables_.draw(topic.subjects, other, rng_);
      }
      return subjects;
    }
    // "2" differs in the contrast field and agrees in the other; "same" and "also" agree in both.
    std::vector<std::size_t> unlike, like;
    for (std::size_t other = 0; other < table.size(); ++other) {
      if (other == row || table.cell(other, topic.agree) != table.cell(row, topic.agree)) continue;
      (table.cell(other, topic.contrast) == table.cell(row, topic.contrast) ? like : unlike).push_back(other);
    }
    if (!unlike.empty())
      subjects["2"] = tables_.draw(topic.subjects, unlike[rng_.below(unlike.size())], rng_);
    if (like.size() > 1) {
      shuffle(like, rng_);
      subjects["same"] = tables_.draw(topic.subjects, like[0], rng_);
      subjects["also"] = tables_.draw(topic.subjects, like[1], rng_);
    }
    return subjects;
  }

  const AtlasTables& tables_;
  const AtlasTemplates& templates_;
  std::vector<Topic> topics_;
  std::vector<std::vector<std::size_t>> decks_;
  std::uint64_t total_share_ = 0;
  AtlasUse use_;
  Rng rng_;
};

}  // namespace

AtlasCorpus make_atlas_corpus(const std::filesystem::path& source_dir, const AtlasOptions& options) {
  if (options.documents == 0 || options.documents > kMaxDocuments ||
      options.held_out_documents > kMaxDocuments) {
    fail(ErrorCode::kUsage, "atlas corpus: documents: expected 1 to {}, found {} and {} held out",
         kMaxDocuments, options.documents, options.held_out_documents);
  }
  const AtlasTables tables(source_dir);
  const AtlasTemplates templates(source_dir / "templates");
  const std::vector<Topic> topics = read_recipe(source_dir / "recipe.tsv", tables, templates);

  AtlasCorpus corpus;
  DocumentWriter train(tables, templates, topics, AtlasUse::kTrain, Rng(options.seed, kTrainStream));
  for (std::size_t i = 0; i < options.documents; ++i) corpus.documents.push_back(train.write());

  std::unordered_set<std::string_view> seen(corpus.documents.begin(), corpus.documents.end());
  const auto write_held_out = [&](AtlasUse use, Stream stream, std::vector<std::string>& out) {
    DocumentWriter writer(tables, templates, topics, use, Rng(options.seed, stream));
    out.reserve(options.held_out_documents);  // `seen` views these strings: they must not move
    // Short documents repeat; a bounded number of tries keeps a tiny recipe from looping.
    for (std::size_t tries = 0; writer.can_write() && tries < 20 * options.held_out_documents; ++tries) {
      if (out.size() == options.held_out_documents) break;
      std::string document = writer.write();
      if (seen.count(document)) continue;
      out.push_back(std::move(document));
      seen.insert(out.back());
    }
  };
  write_held_out(AtlasUse::kTrain, kHeldOutStream, corpus.held_out);
  write_held_out(AtlasUse::kHeldOut, kHeldOutTemplateStream, corpus.held_out_templates);
  corpus.facts = make_atlas_suite(source_dir, tables);
  return corpus;
}

}  // namespace stem
