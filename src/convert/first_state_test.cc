#include "convert/first_state.h"

#include <gtest/gtest.h>

#include <cstring>

#include "convert/random_text.h"
#include "convert/residual_stream.h"
#include "kernels/cpu/cpu.h"

namespace stem {
namespace {

// A model of other weights altogether: whatever a step did, the row of the start token makes up for it, and
// no other row moves.
TEST(FirstState, IsRestoredByTheStartTokensRowAlone) {
  constexpr std::int32_t kStart = 3;
  Workspace workspace;
  const Context ctx{&cpu_kernels(), &workspace, false};
  Model dense(random_text_config(FfnVariant::dense), {}), student(random_text_config(FfnVariant::stem), {});
  init_weights(dense, 11);
  init_weights(student, 12);
  const FirstState first(ctx, dense, kStart);
  const In records = student.table.records();
  std::vector<float> before(records.row<float>(0), records.row<float>(0) + records.size());
  EXPECT_GT(first.restore(ctx, student), 0.1);
  EXPECT_LT(first.restore(ctx, student), 1e-3);

  const CalibrationText text({kStart, 5, 7, 9}, 4);
  ResidualStream wanted(ctx, dense, text), found(ctx, student, text);
  for (std::int64_t l = 0; l < 3; ++l) {
    wanted.advance(ctx, dense, l), found.advance(ctx, student, l);
    if (l == 1) continue;  // dense in both
    for (std::int64_t d = 0; d < dense.config.width; ++d)
      EXPECT_NEAR(found.all().row<float>(0)[d], wanted.all().row<float>(0)[d], 1e-4) << l;
  }
  std::memcpy(before.data() + kStart * records.cols, records.row<float>(kStart),
              static_cast<std::size_t>(records.cols) * sizeof(float));
  EXPECT_EQ(std::memcmp(before.data(), records.row<float>(0), before.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace stem
