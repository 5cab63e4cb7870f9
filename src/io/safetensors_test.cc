#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/rng.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

class SafetensorsFile : public ::testing::Test {
 protected:
  void put(std::string_view bytes) const {
    FileWriter writer(path);
    writer.write(bytes);
    writer.close();
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  const fs::path path = dir / "t.safetensors";
};

std::string with_length(std::string_view header, std::string_view data = "") {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes.append(header).append(data);
}

std::string failure_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(SafetensorsCorpus, VerdictsHold) {
  const fs::path folder = fs::path(STEM_SOURCE_DIR) / "tests" / "fuzz" / "safetensors";
  std::istringstream lines(read_file(folder / "verdicts.tsv"));
  std::set<std::string> listed{"verdicts.tsv"};
  int differ = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string name, ours, reference, why;
    std::getline(fields, name, '\t');
    std::getline(fields, ours, '\t');
    std::getline(fields, reference, '\t');
    std::getline(fields, why);
    listed.insert(name + ".safetensors");
    std::string found = "accept", message;
    try {
      const Safetensors file = Safetensors::open(folder / (name + ".safetensors"));
      for (const TensorInfo& info : file.tensors()) {  // what was accepted can be touched
        const auto* bytes = static_cast<const unsigned char*>(file.data(info));
        EXPECT_GE(std::accumulate(bytes, bytes + info.bytes, 0), 0);
      }
    } catch (const Error& error) {
      found = "reject";
      message = error.what();
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << message;
      EXPECT_NE(message.find(name + ".safetensors: "), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_LT(message.size(), 600u) << message;
    }
    EXPECT_EQ(found, ours) << name << " (" << why << ") " << message;
    // Where the two differ we are the stricter one, and the list says why.
    if (ours != reference) {
      ++differ;
      EXPECT_EQ(ours, "reject") << name;
      EXPECT_NE(why.find("(the package "), std::string::npos) << name;
    }
  }
  EXPECT_LE(differ, 5);
  EXPECT_GT(listed.size(), 100u);
  for (const auto& entry : fs::directory_iterator(folder)) {
    EXPECT_TRUE(listed.contains(entry.path().filename().string())) << entry.path() << " has no verdict";
  }
}

TEST_F(SafetensorsFile, RoundTrip) {
  const std::vector<float> w{1, 2, 3, 4, 5, 6};
  const std::vector<bf16> b{bf16(1.5f), bf16(-2.0f)};
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"note", "é\n\""}};
  const std::vector<TensorSpec> specs{
      {"w", DType::f32, {2, 3}}, {"none", DType::f32, {0, 5}}, {"b", DType::bf16, {2}}};
  const std::vector<In> views{matrix(w.data(), 2, 3), {nullptr, DType::f32, 0, 5, 5}, matrix(b.data(), 1, 2)};
  write_safetensors(path, specs, views, metadata);

  const Safetensors file = Safetensors::open(path);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"w", "none", "b"}));
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.data_start() % 8, 0u);
  const In view = file.matrix("w", 2, 3);
  EXPECT_EQ(view.row<float>(1)[2], 6.0f);
  EXPECT_EQ(static_cast<float>(file.matrix("b", 1, 2).row<bf16>(0)[1]), -2.0f);
  EXPECT_EQ(file.info("w").described(), "F32 [2, 3]");
  EXPECT_EQ(file.info("w").elements(), 6);
  EXPECT_EQ(file.expect("w", DType::f32, std::vector<std::int64_t>{-1, 3}).bytes, 24u);
  EXPECT_TRUE(file.has("none"));
  EXPECT_FALSE(file.has("absent"));

  const Safetensors copy = file;  // shares the map
  EXPECT_EQ(copy.data("w"), file.data("w"));

  write_safetensors(dir / "again", specs, views, metadata);
  EXPECT_EQ(read_file(path), read_file(dir / "again"));
}

TEST_F(SafetensorsFile, ErrorsNameExpectedAndFound) {
  const std::vector<float> w{1, 2, 3, 4};
  write_safetensors(path, {{"model.norm.weight", DType::f32, {4}}}, std::vector<In>{matrix(w.data(), 1, 4)});
  const Safetensors file = Safetensors::open(path);
  EXPECT_EQ(failure_of([&] { file.info("model.norm.weigth"); }, ErrorCode::kNotFound),
            path.string() + ": no tensor model.norm.weigth (did you mean \"model.norm.weight\"?)");
  EXPECT_EQ(failure_of([&] { file.matrix("model.norm.weight", 2, 2); }, ErrorCode::kMismatch),
            path.string() + ": model.norm.weight: expected shape [2, 2], found [4]");
  EXPECT_EQ(failure_of([&] { file.expect("model.norm.weight", DType::bf16, std::vector<std::int64_t>{4}); },
                       ErrorCode::kMismatch),
            path.string() + ": model.norm.weight: expected BF16 [4], found F32 [4]");
}

TEST_F(SafetensorsFile, MisalignedAndForeignTypesAreNotViews) {
  put(with_length(
      R"({"odd":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"BOOL","shape":[1],"data_offsets":[4,5]}})",
      "12345"));
  const Safetensors file = Safetensors::open(path);
  ASSERT_NE(file.data_start() % 4, 0u);
  EXPECT_NE(failure_of([&] { file.matrix("odd", 1, 1); }, ErrorCode::kFormat).find("not aligned"),
            std::string::npos);
  EXPECT_NE(failure_of([&] { file.matrix("b", 1, 1); }, ErrorCode::kFormat).find("BOOL"), std::string::npos);
}

TEST_F(SafetensorsFile, WriterAlignsAndTakesPieces) {
  std::vector<std::uint16_t> table(3 * 2 * 64);
  std::iota(table.begin(), table.end(), std::uint16_t{0});
  SafetensorsWriter writer(path, {{"stem.table", DType::u16, {3, 2, 64}}}, {}, 4096);
  for (std::size_t i = 0; i < 3; ++i) writer.write("stem.table", table.data() + i * 128, 256);
  writer.close();
  const Safetensors file = Safetensors::open(path);
  EXPECT_EQ(file.data_start(), 4096u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.data("stem.table")) % 4096, 0u);
  EXPECT_EQ(std::memcmp(file.data("stem.table"), table.data(), 768), 0);
}

TEST_F(SafetensorsFile, StridedViewsAreWrittenRowByRow) {
  const std::vector<float> w{1, 2, 3, 4, 5, 6};
  write_safetensors(path, {{"w", DType::f32, {2, 2}}},
                    std::vector<In>{matrix(w.data(), 2, 3).slice_cols(1, 2)});
  const Safetensors file = Safetensors::open(path);
  EXPECT_EQ(file.matrix("w", 2, 2).row<float>(1)[0], 5.0f);
}

TEST_F(SafetensorsFile, WriterMisuseIsOurBug) {
  const float x = 0;
  EXPECT_DEATH({ SafetensorsWriter(path, {{"a", DType::f32, {1}}}).close(); }, "every tensor is written");
  EXPECT_DEATH(
      {
        SafetensorsWriter(path, {{"a", DType::f32, {1}}}).write("b", &x, 4);
      },
      "order of the specs");
  EXPECT_DEATH({ SafetensorsWriter(path, {{"a", DType::f32, {1}}}).write("a", &x, 8); }, "no more bytes");
  EXPECT_DEATH(
      {
        SafetensorsWriter(path, {{"a", DType::u8, {1}}, {"b", DType::f32, {1}}});
      },
      "wider element types");
}

std::string header_of(int tensors) {
  std::string header = "{";
  for (int i = 0; i < tensors; ++i) {
    header +=
        fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", i ? "," : "", i);
  }
  return with_length(header + "}");
}

TEST_F(SafetensorsFile, ManyTensorsOpenAndTooManyAreRefusedInTime) {
  const auto start = std::chrono::steady_clock::now();
  put(header_of(20'000));
  EXPECT_EQ(Safetensors::open(path).tensors().size(), 20'000u);
  std::string zeros = "{\"a\":[0";
  for (int i = 0; i < 2'000'000; ++i) zeros += ",0";
  put(with_length(zeros + "]}"));
  EXPECT_NE(failure_of([&] { Safetensors::open(path); }, ErrorCode::kFormat).find("more than 2000000 values"),
            std::string::npos);
  // A fraction of a second on an idle machine; the slack is for sanitizers and busy ones.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(SafetensorsFile, SparseTerabyteOpensAtOnce) {
  const std::uint64_t size = std::uint64_t{1} << 40;
  const std::string header =
      fmt::format(R"({{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", size);
  put(with_length(header));
  if (::truncate(path.c_str(), static_cast<off_t>(8 + header.size() + size)) != 0) {
    GTEST_SKIP() << "the file system has no sparse terabyte";
  }
  EXPECT_EQ(Safetensors::open(path).info("a").bytes, size);
}

TEST_F(SafetensorsFile, FlippedAndCutBytesNeverCrash) {
  const std::vector<float> w{1, 2, 3, 4};
  write_safetensors(path, {{"a", DType::f32, {2, 1}}, {"b", DType::f32, {2}}},
                    std::vector<In>{matrix(w.data(), 2, 1), matrix(w.data(), 1, 2)}, {{"k", "v"}});
  const std::string good = read_file(path);
  Rng rng(1, 2);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string bytes = good;
    const auto at = rng.below(bytes.size());
    if (i % 3 == 0) {
      bytes.resize(at);
    } else {
      bytes[at] =
          static_cast<char>(bytes[at] ^ (i % 3 == 1 ? 1 << rng.below(8) : static_cast<int>(rng.below(256))));
    }
    std::ofstream(path, std::ios::binary) << bytes;  // no sync: thousands of files
    try {
      const Safetensors file = Safetensors::open(path);
      for (const TensorInfo& info : file.tensors()) ASSERT_LE(info.offset + info.bytes, bytes.size());
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 50);  // flips in the data
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace stem
