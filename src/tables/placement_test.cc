#include "tables/placement.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace stem {
namespace {

std::string failure(std::string_view text) {
  try {
    placement_from(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    return e.what();
  }
  return "no error";
}

TEST(Placement, ReadsEveryForm) {
  using Kind = TablePlacement::Kind;
  EXPECT_EQ(placement_from("memory"), (TablePlacement{Kind::memory, 0}));
  EXPECT_EQ(placement_from("mapped"), (TablePlacement{Kind::mapped, 0}));
  EXPECT_EQ(placement_from("disk:1"), (TablePlacement{Kind::disk, 1}));
  EXPECT_EQ(placement_from("disk:3K"), (TablePlacement{Kind::disk, 3 << 10}));
  EXPECT_EQ(placement_from("disk:64M"), (TablePlacement{Kind::disk, 64 << 20}));
  EXPECT_EQ(placement_from("disk:2g"), (TablePlacement{Kind::disk, std::int64_t{2} << 30}));
  for (const char* text : {"memory", "mapped", "disk:4096"})
    EXPECT_EQ(placement_text(placement_from(text)), text);
}

TEST(Placement, RefusesEverythingElse) {
  EXPECT_EQ(failure("ram"),
            "table placement: expected memory, mapped or disk:BUDGET (disk:64M), found \"ram\"");
  EXPECT_EQ(failure("disk:64X"),
            "table placement: disk: expected a number of bytes such as 67108864, 64M or 2G, found \"64X\"");
  for (const char* text : {"", "disk", "Memory", "memory "})
    EXPECT_NE(failure(text).find("expected memory, mapped or disk:BUDGET"), std::string::npos) << text;
  for (const char* text :
       {"disk:", "disk:M", "disk:0", "disk:-1", "disk:1.5G", "disk:64 M", "disk:64MB", "disk:+1",
        "disk:9223372036854775808", "disk:9223372036854775807", "disk:8589934592G"})
    EXPECT_NE(failure(text).find("expected a number of bytes"), std::string::npos) << text;
}

}  // namespace
}  // namespace stem
