#include "convert/conversion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convert/damage.h"
#include "convert/random_text.h"
#include "convert/row_update.h"
#include "kernels/cpu/cpu.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

class ConversionTest : public ::testing::Test {
 protected:
  ConversionTest() : dense(random_text_config(FfnVariant::dense), {}) {
    init_weights(dense, 11);
    // Larger weights than a training starts from, so that layers matter.
    for (LayerTensors& t : dense.weights.layers)
      scale(t.gate_up, 3.0f), scale(t.o, 6.0f), scale(t.down, 4.0f);
  }
  static void scale(Out m, float factor) {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      for (std::int64_t i = 0; i < m.cols; ++i) m.row<float>(r)[i] *= factor;
    }
  }
  // Converts `layers`, and keeps each layer's whole table [V, F].
  struct Converted {
    std::unique_ptr<Conversion> conversion;
    std::map<std::int64_t, Tensor> rows;
    double stream_error = 0;
  };
  Converted convert(const std::vector<std::int64_t>& layers, const ConversionOptions& options = {}) {
    Converted c{std::make_unique<Conversion>(ctx, dense, text, layers, options), {}, 0};
    for (std::int64_t l = 0; l < dense.config.layers; ++l) {
      if (!c.conversion->changes(l)) {
        c.conversion->run(l);
        continue;
      }
      Tensor all(DType::f32, dense.config.vocab, dense.config.ffn);
      const ConvertedLayer done = c.conversion->convert(l, [&](std::int64_t first, In piece) {
        for (std::int64_t r = 0; r < piece.rows; ++r)
          std::memcpy(all.view.row<float>(first + r), piece.row<float>(r),
                      static_cast<std::size_t>(piece.cols) * sizeof(float));
      });
      c.stream_error = done.stream_error;
      if (c.conversion->model().config.stem_index(l) >= 0) c.rows.emplace(l, std::move(all));
    }
    return c;
  }
  // The same model with a table: what is saved.
  Model finished(const Converted& c) {
    Model model = share_as_stem(dense, c.conversion->model().config.stem_layers);
    for (std::size_t l = 0; l < model.weights.layers.size(); ++l) {
      model.weights.layers[l].down = c.conversion->model().weights.layers[l].down;
      model.weights.layers[l].o = c.conversion->model().weights.layers[l].o;
    }
    model.table = Table::in_memory(model.config.table_shape(), DType::f32);
    for (const auto& [l, rows] : c.rows) {
      const std::int64_t s = model.config.stem_index(l), ffn = model.config.ffn;
      for (std::int64_t t = 0; t < model.config.vocab; ++t)
        std::memcpy(model.table.writable_records().row<float>(t) + s * ffn, rows.view.row<float>(t),
                    static_cast<std::size_t>(ffn) * sizeof(float));
    }
    return model;
  }
  double loss(const Model& model, const CalibrationText& on) {
    ResidualStream stream(ctx, model, on);
    for (std::int64_t l = 0; l < model.config.layers; ++l) stream.advance(ctx, model, l);
    double sum = 0;
    for (const float value : stream.losses(ctx, model)) sum += static_cast<double>(value);
    return sum / static_cast<double>(on.size());
  }
  double stream_difference(const Model& model) {
    ResidualStream a(ctx, dense, text), b(ctx, model, text);
    for (std::int64_t l = 0; l < model.config.layers; ++l) a.advance(ctx, dense, l), b.advance(ctx, model, l);
    double error = 0, size = 0;
    for (std::int64_t n = 0; n < text.size(); ++n) {
      if (n % kTestSequence == 0) continue;
      for (std::int64_t d = 0; d < dense.config.width; ++d) {
        const double x = get(a.all(), n, d), y = get(b.all(), n, d);
        error += (x - y) * (x - y), size += x * x;
      }
    }
    return error / size;
  }

  Rng rng{5, 1};
  Workspace workspace;
  Context ctx{&cpu_kernels(), &workspace, false};
  CalibrationText text = random_text(rng, 40, 4), held_out = random_text(rng, 6, 4);
  Model dense;
};

// Without attention the first layer's up-projection sees the token alone: its rows are exact, but for bf16.
TEST_F(ConversionTest, NothingIsLostWhereUpDependsOnTheTokenAlone) {
  scale(dense.weights.layers[0].o, 0.0f);
  ConversionOptions options;
  options.prior = 0.0;
  const Converted c = convert({0}, options);
  EXPECT_LT(c.stream_error, 1e-5);
  EXPECT_NEAR(loss(finished(c), text), loss(dense, text), 1e-4);
  const std::vector<LayerDamage> damage = measure_damage(ctx, dense, text, held_out, {}, [](auto&) {});
  ASSERT_EQ(damage.size(), 3u);
  EXPECT_NEAR(damage[0].damage, 0.0, 5e-3);  // the prior counts here
  EXPECT_LT(damage[0].ffn_error, 1e-3);
  EXPECT_GT(damage[1].ffn_error, 1e-2);
}

// Layers converted one after another make up for what earlier ones lost; at once they do not.
TEST_F(ConversionTest, OneAfterAnotherIsCloserThanAtOnce) {
  const ConversionOptions options;
  const Converted sequential = convert({0, 1, 2}, options);
  std::vector<Converted> single;
  Model model = finished(sequential);
  for (std::int64_t l = 0; l < 3; ++l) {
    single.push_back(convert({l}, options));
    model.weights.layers[static_cast<std::size_t>(l)].down =
        single.back().conversion->model().weights.layers[static_cast<std::size_t>(l)].down;
    for (std::int64_t t = 0; t < model.config.vocab; ++t)
      std::memcpy(model.table.writable_records().row<float>(t) + l * model.config.ffn,
                  single.back().rows.at(l).view.row<float>(t),
                  static_cast<std::size_t>(model.config.ffn) * sizeof(float));
  }
  const double once = stream_difference(model), in_turn = stream_difference(finished(sequential));
  EXPECT_LT(in_turn, 0.95 * once);
  EXPECT_NEAR(in_turn, sequential.stream_error, 0.5 * in_turn);  // one a ratio of sums, one a mean of ratios
}

// Layers that stay dense, and attention, make up for what the converted one lost; only where they are asked
// to.
TEST_F(ConversionTest, LayersBehindMakeUpForAnEarlierOne) {
  ConversionOptions options;
  options.refit = RefitScope::all;
  const Converted all = convert({0}, options);
  options.refit = RefitScope::converted;
  const Converted converted = convert({0}, options);
  const Model model = finished(converted), better = finished(all);
  EXPECT_LT(stream_difference(better), 0.8 * stream_difference(model));
  for (std::size_t l = 0; l < 3; ++l) {
    const LayerTensors &before = dense.weights.layers[l], &after = model.weights.layers[l];
    EXPECT_EQ(after.o.data, before.o.data);
    EXPECT_EQ(after.down.data == before.down.data, l > 0);
    EXPECT_EQ(better.weights.layers[l].o.data == before.o.data, l == 0);
    EXPECT_NE(better.weights.layers[l].down.data, before.down.data);
  }
}

// The state of a sequence's first token can be a thousand times as large as any other, and every position
// attends to it: neither its row nor the refit of W_d may disturb it.
TEST_F(ConversionTest, StartTokensKeepTheirState) {
  const Converted c = convert({0, 1, 2});
  const Model model = finished(c);
  ResidualStream a(ctx, dense, text), b(ctx, model, text);
  for (std::int64_t l = 0; l < 3; ++l) a.advance(ctx, dense, l), b.advance(ctx, model, l);
  double of_starts = 0, of_others = 0;
  for (std::int64_t n = 0; n < text.size(); ++n) {
    double error = 0, size = 0;
    for (std::int64_t d = 0; d < dense.config.width; ++d) {
      const double x = get(a.all(), n, d), y = get(b.all(), n, d);
      error += (x - y) * (x - y), size += x * x;
    }
    if (n % kTestSequence == 0)
      of_starts += error / size / 40;
    else
      of_others += error / size / (40 * (kTestSequence - 1));
  }
  EXPECT_LT(of_starts, 0.01 * of_others);
}

TEST_F(ConversionTest, GoesOnWithTheSameBits) {
  ConversionOptions options;
  options.refit = RefitScope::all;
  Converted whole = convert({0, 2}, options);
  const Model& first = whole.conversion->model();
  Conversion resumed(ctx, dense, text, {0, 2}, options);
  Tensor of_text(DType::f32, std::ssize(text.distinct()), dense.config.ffn);
  for (std::int64_t r = 0; r < of_text.view.rows; ++r)
    std::memcpy(of_text.view.row<float>(r),
                whole.rows.at(0).view.row<float>(text.distinct()[static_cast<std::size_t>(r)]),
                static_cast<std::size_t>(of_text.view.cols) * sizeof(float));
  resumed.resume(0, of_text, first.weights.layers[0].down, {});
  resumed.resume(1, {}, first.weights.layers[1].down, first.weights.layers[1].o);
  Tensor rows(DType::f32, dense.config.vocab, dense.config.ffn);
  const ConvertedLayer done = resumed.convert(
      2, [&](std::int64_t, In piece) { std::memcpy(rows.view.data, piece.data, rows.buffer.size()); });
  EXPECT_EQ(std::memcmp(rows.view.data, whole.rows.at(2).view.data, rows.buffer.size()), 0);
  EXPECT_EQ(std::memcmp(done.down.view.data, first.weights.layers[2].down.data, done.down.buffer.size()), 0);
  EXPECT_EQ(std::memcmp(done.o.view.data, first.weights.layers[2].o.data, done.o.buffer.size()), 0);
}

// Rows of the layers of `student`, updated by a text in pieces of four sequences, as if each had been made
// from `seen` occurrences. Returns how many were.
std::int64_t update(const Context& ctx, const Model& dense, const CalibrationText& by, std::int64_t seen,
                    double prior, const Model& student, const std::map<std::int64_t, Tensor>& rows) {
  const auto rows_of = [&](std::int64_t s) -> Out {
    return rows.at(student.config.stem_layers[static_cast<std::size_t>(s)]);
  };
  RowUpdate update(ctx, dense, student, {by.distinct().begin(), by.distinct().end()},
                   [&](std::int64_t s, std::span<const std::int32_t> tokens, Out to) {
                     for (std::size_t i = 0; i < tokens.size(); ++i)
                       std::memcpy(to.row<float>(static_cast<std::int64_t>(i)),
                                   rows_of(s).row<float>(tokens[i]),
                                   static_cast<std::size_t>(to.cols) * sizeof(float));
                   });
  const std::int64_t piece = 4 * kTestSequence;
  for (std::int64_t first = 0; first < by.size(); first += piece)
    update.add(CalibrationText(
        {by.tokens().begin() + first, by.tokens().begin() + std::min(first + piece, by.size())},
        kTestSequence, 3));
  std::int64_t updated = 0;
  for (std::int64_t s = 0; s < student.config.stem_layer_count(); ++s) {
    RowUpdate::Layer layer(update, s);
    for (std::int32_t t = 0; t < dense.config.vocab; ++t)
      updated +=
          layer.solve(t, seen, prior, {rows_of(s).row<float>(t), static_cast<std::size_t>(dense.config.ffn)});
  }
  return updated;
}

// Where old rows count nothing, the first layer's are those that the other text alone would have given; but
// for the start token's, which stays.
TEST_F(ConversionTest, UpdatedRowsAreTheLeastSquaresOverTheOtherText) {
  ConversionOptions options;
  options.prior = 0.0;
  const CalibrationText other = random_text(rng, 22, 4);
  Converted c = convert({0, 2}, options);
  EXPECT_EQ(update(ctx, dense, other, 0, 0.0, c.conversion->model(), c.rows), 2 * 17);
  Conversion alone(ctx, dense, other, {0}, options);
  const In updated = c.rows.at(0);
  std::int64_t compared = 0;
  alone.convert(0, [&](std::int64_t first, In piece) {
    for (std::int64_t r = 0; r < piece.rows; ++r) {
      if (other.place(static_cast<std::int32_t>(first + r)) < 0) continue;
      for (std::int64_t f = 0; f < piece.cols; ++f, ++compared)
        EXPECT_NEAR(get(updated, first + r, f), get(piece, r, f), 0.01 * std::abs(get(piece, r, f)) + 1e-4);
    }
  });
  EXPECT_EQ(compared, 18 * dense.config.ffn);
}

// By the text that they were made from rows do not change, in whichever layer, however much they count.
TEST_F(ConversionTest, TheSameTextChangesNoRow) {
  ConversionOptions options;
  options.prior = 0.0;
  options.refit = RefitScope::all;
  for (const std::int64_t seen : {0, 30}) {
    Converted c = convert({0, 1, 2}, options);
    const Converted before = convert({0, 1, 2}, options);
    update(ctx, dense, text, seen, 0.0, c.conversion->model(), c.rows);
    for (std::int64_t l = 0; l < 3; ++l) {
      double difference = 0, size = 0;
      for (std::int64_t t = 0; t < 18; ++t) {
        for (std::int64_t f = 0; f < dense.config.ffn; ++f) {
          const double a = get(before.rows.at(l), t, f), b = get(c.rows.at(l), t, f);
          difference += (a - b) * (a - b), size += a * a;
        }
      }
      EXPECT_LT(difference, 1e-4 * size) << l << ' ' << seen;
    }
  }
}

// Few occurrences make noisy rows; those of another text make up for it, in every layer.
TEST_F(ConversionTest, UpdatedRowsAreCloserOnTextThatNeitherSaw) {
  const CalibrationText other = random_text(rng, 160, 4), third = random_text(rng, 40, 4);
  text = random_text(rng, 8, 4);
  Converted c = convert({0, 1, 2});
  const std::int64_t seen = (text.size() - 8) / 17;
  const auto difference = [&] {
    text = third;
    return stream_difference(finished(c));
  };
  const double before = difference();
  update(ctx, dense, other, seen, 4.0, c.conversion->model(), c.rows);
  EXPECT_LT(difference(), 0.9 * before);
}

// The least squares over both texts are the best that rows can do on them; updated ones come near.
TEST_F(ConversionTest, OldRowsCountAsTheirOccurrences) {
  ConversionOptions options;
  options.prior = 0.0;
  const CalibrationText other = random_text(rng, 40, 4);
  Converted c = convert({0}, options);
  Model before = finished(c);
  update(ctx, dense, other, (text.size() - 40) / 17, 0.0, c.conversion->model(), c.rows);
  Model updated = finished(c);
  std::vector<std::int32_t> both(text.tokens().begin(), text.tokens().end());
  both.insert(both.end(), other.tokens().begin(), other.tokens().end());
  text = CalibrationText(std::move(both), kTestSequence, 4);
  Model best = finished(convert({0}, options));
  // W_d as it was, so that the rows alone differ.
  for (Model* const model : {&before, &updated, &best})
    model->weights.layers[0].down = dense.weights.layers[0].down;
  const double least = stream_difference(best);
  EXPECT_GT(stream_difference(before), 1.02 * least);
  EXPECT_LT(stream_difference(updated) - least, 0.3 * (stream_difference(before) - least));
}

TEST_F(ConversionTest, KnownDamageIsKept) {
  const std::vector<LayerDamage> all = measure_damage(ctx, dense, text, held_out, {}, [](auto&) {});
  int measured = 0;
  std::vector<LayerDamage> known{all[0], {1, 9.0, 9.0}};
  const std::vector<LayerDamage> rest =
      measure_damage(ctx, dense, text, held_out, known, [&](auto&) { ++measured; });
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(rest[1].damage, 9.0);
  EXPECT_EQ(rest[2].damage, all[2].damage);
  EXPECT_EQ(least_damaged(rest, 2), (std::vector<std::int64_t>{0, 2}));
}

TEST(CalibrationTextTest, FurtherTextIsWhatCalibrationLeaves) {
  std::vector<std::int32_t> tokens(90);
  for (std::int32_t i = 0; i < 90; ++i) tokens[static_cast<std::size_t>(i)] = 100 + i;
  const DividedText d = divide_text(tokens, 7, 10, 5, 40, 1000, 1000);
  EXPECT_EQ(d.further.size(), 40u);
  std::vector<std::int32_t> all = d.calibration;
  all.insert(all.end(), d.further.begin(), d.further.end());
  all.insert(all.end(), d.held_out.begin(), d.held_out.end());
  std::sort(all.begin(), all.end());
  for (std::int32_t i = 0; i < 90; ++i) EXPECT_EQ(all[static_cast<std::size_t>(10 + i)], 100 + i);
  EXPECT_EQ(divide_text(tokens, 7, 10, 5, 40, 0, 25).further.size(), 20u);
  EXPECT_TRUE(divide_text(tokens, 7, 10, 5, 40, 1000).further.empty());
}

TEST(CalibrationTextTest, SequencesBeginWithTheStartTokenAndAreSpreadEvenly) {
  std::vector<std::int32_t> tokens(90);
  for (std::int32_t i = 0; i < 90; ++i) tokens[static_cast<std::size_t>(i)] = 100 + i;
  const DividedText d = divide_text(tokens, 7, 10, 5, 40, 1000);  // ten sequences of 9, two set aside
  EXPECT_EQ(d.calibration.size(), 40u);
  EXPECT_EQ(d.held_out.size(), 20u);
  EXPECT_EQ(d.calibration[0], 7);
  EXPECT_EQ(d.calibration[1], 100);
  EXPECT_EQ(d.calibration[11], 100 + 2 * 9);  // every second of eight
  EXPECT_EQ(d.held_out[1], 100 + 4 * 9);
  const CalibrationText text(d.calibration, 10, 3);
  EXPECT_EQ(text.batches(), 2);
  EXPECT_EQ(text.batch(1).size(), 10);
  EXPECT_EQ(text.targets()[0], -1);
  EXPECT_EQ(text.targets()[1], 101);
  EXPECT_EQ(text.targets()[9], -1);
  EXPECT_EQ(text.distinct().front(), 7);
  EXPECT_EQ(text.counts().front(), 4);
  EXPECT_EQ(text.place(7), 0);
  EXPECT_EQ(text.place(8), -1);
  EXPECT_EQ(text.place(1'000'000), -1);
}

}  // namespace
}  // namespace stem
