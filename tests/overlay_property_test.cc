// Properties of overlays and sessions on small random models, with the cpu kernels, bit for bit: an edit is
// felt only where an edited row is read, dropping it leaves nothing behind, and neither the cutting of a
// prompt into calls nor the number of threads can be seen in the logits.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/rng.h"
#include "edit/patch_overlay.h"
#include "generate/session.h"
#include "kernels/cpu/cpu.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

constexpr std::int32_t kVocab = 64;

// Values apart from each other and from every table: a row of them must change the logits.
std::vector<float> random_row(Rng& rng, std::int64_t width) {
  std::vector<float> row(static_cast<std::size_t>(width));
  for (float& v : row) v = static_cast<float>(rng.normal());
  return row;
}

class OverlayProperty : public testing::TestWithParam<FfnVariant> {
 protected:
  OverlayProperty() : model(shape(), {}) {
    init_weights(model, 21);
    Rng table(4, 0);  // additive tables start at zero: give every row values of its own
    const Out records = model.table.writable_records();
    for (std::int64_t i = 0; i < records.size(); ++i)
      records.row<float>(0)[i] = static_cast<float>(0.3 * table.normal());
  }
  static ModelConfig shape() {
    ModelConfig c;
    c.vocab = kVocab;
    c.width = 48;
    c.layers = 3;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_width = 12;
    c.ffn = 80;
    c.max_positions = 48;
    c.variant = GetParam();
    c.stem_layers = {0, 2};
    return c;
  }

  Ids random_prompt(std::int32_t from = 0, std::int32_t to = kVocab) {
    Ids ids(2 + rng.below(30));
    for (auto& id : ids)
      id = from + static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(to - from)));
    return ids;
  }
  // A row for a token in [from, to), triggered or not.
  OverlayRow random_edit(std::int32_t from, std::int32_t to, bool triggered) {
    OverlayRow row;
    row.token = from + static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(to - from)));
    row.layer = static_cast<std::int32_t>(rng.below(2));
    if (triggered) row.trigger = random_prompt();
    if (triggered) row.trigger.resize(1 + rng.below(2));
    row.values = random_row(rng, model.config.ffn);
    row.add = rng.below(2) == 1;
    return row;
  }
  // Logits after every call; `cuts` are the lengths of the calls, empty: the whole prompt at once.
  std::vector<Logits> logits(const Ids& prompt, const Overlay* overlay,
                             const std::vector<std::size_t>& cuts = {}) {
    Session session(context, model, overlay);
    std::vector<Logits> all;
    std::size_t at = 0;
    for (const std::size_t n : cuts.empty() ? std::vector{prompt.size()} : cuts) {
      const auto view = session.feed(std::span(prompt).subspan(at, n));
      all.emplace_back(view.begin(), view.end());
      at += n;
    }
    EXPECT_EQ(at, prompt.size());
    return all;
  }
  Logits last(const Ids& prompt, const Overlay* overlay, const std::vector<std::size_t>& cuts = {}) {
    return logits(prompt, overlay, cuts).back();
  }
  std::vector<std::size_t> random_cuts(std::size_t length) {
    std::vector<std::size_t> cuts;
    while (length > 0) {
      cuts.push_back(1 + rng.below(std::min<std::size_t>(length, 9)));
      length -= cuts.back();
    }
    return cuts;
  }

  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
  Rng rng{99, 0};
  Model model;
};

bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(OverlayProperty, WhereNoEditedRowIsReadLogitsKeepTheirBits) {
  for (int round = 0; round < 12; ++round) {
    Overlay overlay;  // edits tokens of the upper half, the prompt is of the lower
    for (int i = 0; i < 6; ++i) overlay.put(model.table, random_edit(kVocab / 2, kVocab, i % 2 == 1));
    const Ids prompt = random_prompt(0, kVocab / 2);
    EXPECT_TRUE(same_bits(last(prompt, &overlay), last(prompt, nullptr)));
  }
}

TEST_P(OverlayProperty, AnEditedRowThatIsReadIsFelt) {
  for (int round = 0; round < 6; ++round) {
    const Ids prompt = random_prompt();
    Overlay overlay;
    OverlayRow row = random_edit(0, kVocab, false);
    row.token = prompt[rng.below(prompt.size())];
    row.layer = 0;  // the last layer's row of an earlier position reaches no logits of the last
    overlay.put(model.table, row);
    EXPECT_FALSE(same_bits(last(prompt, &overlay), last(prompt, nullptr)));
  }
}

TEST_P(OverlayProperty, PositionsBeforeTheEditedTokenKeepTheirBits) {
  Ids prompt = random_prompt(0, kVocab / 2);
  prompt.push_back(kVocab - 1);
  prompt.push_back(3);
  Overlay overlay;
  OverlayRow row = random_edit(kVocab / 2, kVocab, false);
  row.token = kVocab - 1;
  row.layer = 0;
  overlay.put(model.table, row);
  const std::vector<std::size_t> cuts{prompt.size() - 2, 1, 1};
  const auto base = logits(prompt, nullptr, cuts), edited = logits(prompt, &overlay, cuts);
  EXPECT_TRUE(same_bits(base[0], edited[0]));
  EXPECT_FALSE(same_bits(base[1], edited[1]));
  EXPECT_FALSE(same_bits(base[2], edited[2]));  // through the cached keys and values
}

TEST_P(OverlayProperty, DroppingTheOverlayGivesTheBitsBack) {
  const Logits records(model.table.records().row<float>(0),
                       model.table.records().row<float>(0) + model.table.records().size());
  for (int round = 0; round < 6; ++round) {
    const Ids prompt = random_prompt();
    const Logits before = last(prompt, nullptr);
    {
      Overlay overlay;
      for (int i = 0; i < 20; ++i) overlay.put(model.table, random_edit(0, kVocab, i % 2 == 1));
      last(prompt, &overlay);
    }
    EXPECT_TRUE(same_bits(last(prompt, nullptr), before));
  }
  EXPECT_EQ(std::memcmp(records.data(), model.table.record(0), records.size() * sizeof(float)), 0);
}

TEST_P(OverlayProperty, ASwapToItselfChangesNothing) {
  const Ids prompt = random_prompt();
  Overlay overlay;
  for (const std::int32_t token : prompt) {
    for (std::int32_t s = 0; s < 2; ++s) {
      OverlayRow row{token, s, {}, std::vector<float>(static_cast<std::size_t>(model.config.ffn))};
      model.table.read_row(token, s, row.values);
      overlay.put(model.table, row);
    }
  }
  EXPECT_TRUE(same_bits(last(prompt, &overlay), last(prompt, nullptr)));
}

TEST_P(OverlayProperty, TheLaterSetWinsAndAddsSum) {
  const Ids prompt = random_prompt();
  const std::int32_t token = prompt.back();
  const auto a = random_row(rng, model.config.ffn), b = random_row(rng, model.config.ffn);
  Overlay both, later;
  both.put(model.table, {token, 1, {}, a});
  both.put(model.table, {token, 1, {}, b});
  later.put(model.table, {token, 1, {}, b});
  EXPECT_TRUE(same_bits(last(prompt, &both), last(prompt, &later)));

  std::vector<float> sum(a.size());
  model.table.read_row(token, 1, sum);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] + a[i] + b[i];
  Overlay added, set;
  added.put(model.table, {token, 1, {}, a, true});
  added.put(model.table, {token, 1, {}, b, true});
  set.put(model.table, {token, 1, {}, sum});
  EXPECT_TRUE(same_bits(last(prompt, &added), last(prompt, &set)));
  EXPECT_FALSE(same_bits(last(prompt, &added), last(prompt, &later)));
}

TEST_P(OverlayProperty, ATriggerMatchesOnlyDirectlyAfterItsIdsWhereverThePromptIsCut) {
  Overlay overlay;
  overlay.put(model.table, {40, 0, {50, 51}, random_row(rng, model.config.ffn)});
  const auto feels = [&](const Ids& prompt, const std::vector<std::size_t>& cuts) {
    return !same_bits(last(prompt, &overlay, cuts), last(prompt, nullptr, cuts));
  };
  const std::vector<std::size_t> one_by_one(5, 1);
  for (const auto& cuts : {std::vector<std::size_t>{5}, one_by_one, {2, 3}, {3, 2}, {1, 3, 1}}) {
    EXPECT_TRUE(feels({7, 50, 51, 40, 9}, cuts));
    EXPECT_FALSE(feels({7, 51, 50, 40, 9}, cuts));
    EXPECT_FALSE(feels({50, 51, 7, 40, 9}, cuts));
    EXPECT_FALSE(feels({51, 40, 50, 51, 9}, cuts));
    EXPECT_FALSE(feels({40, 50, 51, 7, 9}, cuts));
  }
}

TEST_P(OverlayProperty, ChunksOfAPromptCannotBeSeen) {
  for (int round = 0; round < 12; ++round) {
    Overlay overlay;
    for (int i = 0; i < 30; ++i) overlay.put(model.table, random_edit(0, kVocab, i % 2 == 1));
    const Ids prompt = random_prompt();
    const Logits whole = last(prompt, &overlay);
    EXPECT_TRUE(same_bits(last(prompt, &overlay, std::vector<std::size_t>(prompt.size(), 1)), whole));
    const auto cuts = random_cuts(prompt.size());
    EXPECT_TRUE(same_bits(last(prompt, &overlay, cuts), whole)) << fmt::format("{}", fmt::join(cuts, "+"));
  }
}

TEST_P(OverlayProperty, ThreadsCannotBeSeen) {
  for (int round = 0; round < 4; ++round) {
    Overlay overlay;
    for (int i = 0; i < 10; ++i) overlay.put(model.table, random_edit(0, kVocab, i % 2 == 1));
    const Ids prompt = random_prompt();
    set_cpu_threads(1);
    const Logits one = last(prompt, &overlay);
    set_cpu_threads(2);
    const Logits two = last(prompt, &overlay), again = last(prompt, &overlay, random_cuts(prompt.size()));
    set_cpu_threads(0);
    EXPECT_TRUE(same_bits(one, two));
    EXPECT_TRUE(same_bits(one, again));
  }
}

TEST_P(OverlayProperty, APatchFromDiskIsTheOverlayInMemory) {
  std::string pattern = (fs::temp_directory_path() / "stem-overlay-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const fs::path path = fs::path(pattern) / "edit.stempatch";
  const PatchTarget target{&model, random_uuid(), std::nullopt, std::nullopt};
  SwapPlan plan;
  Overlay memory, disk;
  for (std::int32_t token = 5; token < 25; ++token) {
    OverlayRow row = random_edit(0, kVocab, token % 2 == 1);
    row.token = token;
    row.add = false;
    memory.put(model.table, row);
    plan.rows.push_back(row);
  }
  PatchFile file = make_patch(target, plan, Json::object(), Json::object());
  write_patch(path, file);
  EXPECT_EQ(apply_patch(target, path, disk).id, file.id);
  EXPECT_EQ(disk.size(), memory.size());
  for (int round = 0; round < 6; ++round) {
    const Ids prompt = random_prompt(0, 30);
    EXPECT_TRUE(same_bits(last(prompt, &disk), last(prompt, &memory)));
  }
  fs::remove_all(pattern);
}

TEST_P(OverlayProperty, AnAbsentTableIsATableOfZeros) {
  model.table = Table::in_memory(model.config.table_shape(), DType::f32);
  const Ids prompt = random_prompt();
  const Logits zeros = last(prompt, nullptr);
  model.table = Table::absent(model.config.table_shape());
  EXPECT_TRUE(same_bits(last(prompt, nullptr), zeros));
}

INSTANTIATE_TEST_SUITE_P(Variants, OverlayProperty,
                         testing::Values(FfnVariant::stem, FfnVariant::stem_gate, FfnVariant::stem_additive),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace stem
