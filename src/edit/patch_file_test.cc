#include "edit/patch_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "core/error.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PatchFile sample() {
  PatchFile patch;
  patch.base_uuid = random_uuid();
  patch.tokenizer = sha256("tokenizer");
  patch.dtype = DType::bf16;
  patch.method = "swap";
  patch.request = {{"subject", "Spain"}, {"target", "Berlin"}};
  patch.sequence = 3;
  patch.rows = {{7, 2, {1, 2, 3}, {}, sha256("a")},
                {7, 4, {4, 5, 6}, {11, 12}, sha256("b")},
                {7, 2, {0, 0, 9}, {5}, {}}};
  return patch;
}

class PatchOnDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    patch = sample();
    write_patch(path, patch);
  }

  // What reading says after patch.json was changed.
  std::string with_json(const std::function<void(Json&)>& change) const {
    const std::string good = read_file(path / "patch.json");
    Json json = parse_json(good, "patch.json");
    change(json);
    std::ofstream(path / "patch.json") << json.dump();
    const std::string found = failure([&] { read_patch(path); });
    std::ofstream(path / "patch.json") << good;
    return found;
  }
  // What reading says of other tensors under a matching id; an empty view leaves the tensor as it is.
  struct Tensors {
    std::vector<float> rows{1, 2, 3, 4};
    std::vector<std::int32_t> layer{1, 2}, token{3, 4}, offsets{0, 1, 2}, ids{5, 6};
    std::int64_t width = 2;
  };
  std::string with_tensors(const Tensors& t) {
    const std::string leaf(64, '\1');
    const auto n = static_cast<std::int64_t>(t.rows.size()) / t.width;
    const auto ints = [](const std::vector<std::int32_t>& v) {
      return matrix(v.data(), 1, static_cast<std::int64_t>(v.size()));
    };
    write_safetensors(path / "patch.safetensors",
                      {{"rows", DType::f32, {n, t.width}},
                       {"layer", DType::i32, {ints(t.layer).cols}},
                       {"token", DType::i32, {ints(t.token).cols}},
                       {"trigger_offsets", DType::i32, {ints(t.offsets).cols}},
                       {"trigger_ids", DType::i32, {ints(t.ids).cols}},
                       {"base_leaf", DType::u8, {n, 32}}},
                      std::vector<In>{matrix(t.rows.data(), n, t.width), ints(t.layer), ints(t.token),
                                      ints(t.offsets), ints(t.ids), In{leaf.data(), DType::u8, n, 32, 32}});
    Sha256 hash;  // docs/formats/patch.md
    hash.update("stem-patch-v1");
    hash.update(patch.base_uuid.data(), 16);
    hash.update(std::string_view("\0", 1));
    const Digest file = sha256_file(path / "patch.safetensors");
    hash.update(file.data(), file.size());
    const std::string id = to_hex(hash.finish());
    return with_json([&](Json& json) { json["id"] = id; });
  }
  static std::string failure(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  const fs::path path = dir / "spain.stempatch";
  PatchFile patch;
};

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_F(PatchOnDisk, RoundTrip) {
  const PatchFile read = read_patch(path);
  EXPECT_EQ(read.id, patch.id);
  EXPECT_EQ(read.id.size(), 64u);
  EXPECT_EQ(read.base_uuid, patch.base_uuid);
  EXPECT_EQ(read.tokenizer, patch.tokenizer);
  EXPECT_EQ(read.dtype, DType::bf16);
  EXPECT_EQ(read.mode, PatchMode::set);
  EXPECT_EQ(read.method, "swap");
  EXPECT_EQ(read.request, patch.request);
  EXPECT_EQ(read.sequence, 3);
  EXPECT_EQ(read.created, patch.created);
  EXPECT_EQ(read.width, 3);
  ASSERT_EQ(read.rows.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read.rows[i].token, patch.rows[i].token);
    EXPECT_EQ(read.rows[i].layer, patch.rows[i].layer);
    EXPECT_EQ(read.rows[i].values, patch.rows[i].values);
    EXPECT_EQ(read.rows[i].trigger, patch.rows[i].trigger);
    EXPECT_EQ(read.rows[i].base_leaf, patch.rows[i].base_leaf);
  }
}

TEST_F(PatchOnDisk, IdCoversRowsModeAndBase) {
  PatchFile same = patch, other_mode = patch, other_base = patch, other_rows = patch;
  same.scores = {{"efficacy", 1}};
  other_mode.mode = PatchMode::add;
  other_base.base_uuid = random_uuid();
  other_rows.rows[0].values[0] = 9;
  write_patch(dir / "b.stempatch", same);
  EXPECT_EQ(same.id, patch.id);  // scores may be added later
  for (PatchFile* other : {&other_mode, &other_base, &other_rows}) {
    write_patch(dir / "b.stempatch", *other);  // replaces the one before
    EXPECT_NE(other->id, patch.id);
  }
  EXPECT_TRUE(has(with_json([](Json& j) { j["mode"] = "add"; }), "the patch was changed"));
  EXPECT_TRUE(
      has(with_json([](Json& j) { j["base_uuid"] = uuid_text(random_uuid()); }), "the patch was changed"));
}

TEST_F(PatchOnDisk, FlippedBitsOfTheRowsAreSeen) {
  const std::string good = read_file(path / "patch.safetensors");
  for (std::size_t i = 0; i < good.size(); i += 3) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    std::ofstream(path / "patch.safetensors", std::ios::binary) << bad;
    EXPECT_NE(failure([&] { read_patch(path); }), "no error") << i;
  }
}

TEST_F(PatchOnDisk, RefusesMalformedJson) {
  EXPECT_TRUE(
      has(with_json([](Json& j) { j["format"] = "stem-patch/2"; }), "format: expected \"stem-patch/1\""));
  EXPECT_TRUE(has(with_json([](Json& j) { j["mode"] = "replace"; }), "mode: expected \"set\" or \"add\""));
  EXPECT_TRUE(has(with_json([](Json& j) { j["id"] = "12"; }), "id: expected 64"));
  EXPECT_TRUE(has(with_json([](Json& j) { j["dtype"] = "f31"; }), "dtype: unknown type"));
  EXPECT_TRUE(
      has(with_json([](Json& j) { j["sequence"] = 0; }), "sequence: expected an integer of at least 1"));
  EXPECT_TRUE(has(with_json([](Json& j) { j["expires"] = "soon"; }), "expires: expected a time"));
  EXPECT_TRUE(has(with_json([](Json& j) { j["base_uuid"] = ""; }), "base_uuid: expected"));
  EXPECT_TRUE(has(with_json([](Json& j) { j["request"] = 1; }), "request: expected an object"));
  EXPECT_TRUE(has(with_json([](Json& j) { j["sequnce"] = 1; }), "did you mean \"sequence\"?"));
  EXPECT_EQ(with_json([](Json&) {}), "no error");
}

TEST_F(PatchOnDisk, RefusesMalformedRows) {
  const auto expect = [&](std::string_view part, const std::function<void(Tensors&)>& change) {
    Tensors tensors;
    change(tensors);
    const std::string found = with_tensors(tensors);
    EXPECT_TRUE(has(found, part)) << found;
  };
  expect("no error", [](Tensors&) {});
  expect("expected a finite value, found nan", [](Tensors& t) { t.rows[2] = kNan; });
  expect("expected a finite value, found inf",
         [](Tensors& t) { t.rows[3] = std::numeric_limits<float>::infinity(); });
  expect("token[1]: expected at least 0, found -1", [](Tensors& t) { t.token[1] = -1; });
  expect("layer[0]: expected at least 0, found -5", [](Tensors& t) { t.layer[0] = -5; });
  expect("layer: expected I32 [2], found I32 [3]", [](Tensors& t) { t.layer.push_back(1); });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {0, 1}; });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {0, 3, 2}; });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {1, 1, 2}; });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {0, 1, 1}; });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {0, -2147483647, 2}; });
  expect("trigger_offsets", [](Tensors& t) { t.offsets = {0, 1, 2147483647}; });
  expect("trigger of row 1: expected ids of at least 0", [](Tensors& t) { t.ids[1] = -2; });
  expect("stands twice", [](Tensors& t) {
    t.layer = {1, 1};
    t.token = {3, 3};
    t.ids = {5, 5};
  });
}

TEST_F(PatchOnDisk, WriterRefusesWhatTheReaderWould) {
  PatchFile bad = patch;
  bad.rows[1].values.pop_back();
  EXPECT_TRUE(has(failure([&] { write_patch(path, bad); }), "expected 3 values, found 2"));
  bad = patch;
  bad.rows[0].values[1] = kNan;
  EXPECT_TRUE(has(failure([&] { write_patch(path, bad); }), "finite"));
  bad = patch;
  bad.rows.clear();
  EXPECT_TRUE(has(failure([&] { write_patch(path, bad); }), "at least one"));
  EXPECT_TRUE(has(failure([&] { write_patch(dir / "spain", patch); }), "ends in .stempatch"));
  fs::create_directory(dir / "mine.stempatch");
  std::ofstream(dir / "mine.stempatch" / "thesis") << "x";
  EXPECT_TRUE(has(failure([&] { write_patch(dir / "mine.stempatch", patch); }), "not replaced"));
  EXPECT_EQ(read_patch(path).id, patch.id);  // the old patch is still there
}

TEST_F(PatchOnDisk, FitsOnlyItsBase) {
  PatchBase base{patch.base_uuid, patch.tokenizer, DType::bf16, 20, 3, {2, 4}, {}};
  const auto verdict = [&](const PatchBase& b, bool requantised = false) {
    return failure([&] { check_patch_base(patch, "p", b, requantised); });
  };
  EXPECT_EQ(verdict(base), "no error");
  const auto expect = [&](std::string_view part, const std::function<void(PatchBase&)>& change) {
    PatchBase other = base;
    change(other);
    EXPECT_TRUE(has(verdict(other), part)) << verdict(other);
  };
  expect("made for another model", [](PatchBase& b) { b.uuid = random_uuid(); });
  expect("tokenizer SHA-256: expected", [](PatchBase& b) { b.tokenizer = sha256("other"); });
  expect("tokenizer SHA-256: expected", [](PatchBase& b) { b.tokenizer.reset(); });
  expect("row width: expected 4, found 3", [](PatchBase& b) { b.width = 4; });
  expect("dtype of the base table: expected bf16, found f32", [](PatchBase& b) { b.dtype = DType::f32; });
  expect("layer 4: not a STEM layer", [](PatchBase& b) { b.stem_layers = {2}; });
  expect("token 7: expected less than 7", [](PatchBase& b) { b.vocab = 7; });
  expect("trigger id 11: expected less than 11", [](PatchBase& b) { b.vocab = 11; });
  expect("base row (token 7, layer 2): SHA-256 expected",
         [](PatchBase& b) { b.leaf = [](std::int32_t, std::int32_t) { return sha256("changed"); }; });
  base.dtype = DType::i8;
  EXPECT_EQ(verdict(base, true), "no error");
  patch.mode = PatchMode::add;
  EXPECT_TRUE(has(verdict(base, true), "found a quantised copy"));
}

}  // namespace
}  // namespace stem
