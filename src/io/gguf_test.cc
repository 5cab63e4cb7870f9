#include "io/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kAll = ~std::uint64_t{0};

// Writes GGUF bytes, right or wrong ones.
struct Bytes {
  std::string bytes;

  template <class T>
  Bytes& put(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes.append(raw, sizeof(T));
    return *this;
  }
  Bytes& u32(std::uint32_t value) { return put(value); }
  Bytes& u64(std::uint64_t value) { return put(value); }
  Bytes& text(std::string_view value) {
    u64(value.size());
    bytes += value;
    return *this;
  }
  Bytes& header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    bytes += "GGUF";
    return u32(version).u64(tensors).u64(keys);
  }
  Bytes& key(std::string_view name, std::uint32_t type) { return text(name).u32(type); }
  Bytes& array(std::string_view name, std::uint32_t type, std::uint64_t count) {
    return key(name, 9).u32(type).u64(count);
  }
  // extents as the file lists them, innermost first
  Bytes& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) u64(extent);
    return u32(type).u64(offset);
  }
  Bytes& data(std::size_t count, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment + count, '\1');
    return *this;
  }
};

class GgufFile : public ::testing::Test {
 protected:
  void put(const std::string& bytes) const {
    fs::remove(path);  // file systems flush a file that is cut and written again; here are thousands
    std::ofstream(path, std::ios::binary) << bytes;
  }
  Gguf open(const Bytes& bytes) const {
    put(bytes.bytes);
    return Gguf::open(path);
  }
  // The message behind "PATH: "; each is one line and names the file.
  std::string failure(const std::function<void()>& call, ErrorCode code = ErrorCode::kFormat) const {
    try {
      call();
    } catch (const Error& error) {
      const std::string message = error.what(), file = path.string() + ": ";
      EXPECT_EQ(error.code(), code) << message;
      EXPECT_EQ(message.substr(0, file.size()), file);
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message.substr(std::min(message.size(), file.size()));
    }
    return "no error";
  }
  std::string refused(const Bytes& bytes) const {
    return failure([&] { open(bytes); });
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  const fs::path path = dir / "t.gguf";
};

Bytes one(const std::vector<std::uint64_t>& extents, std::uint32_t type, std::uint64_t offset,
          std::size_t data) {
  return Bytes().header(1, 0).tensor("a", extents, type, offset).data(data);
}

TEST(GgufGolden, MetadataOfEveryType) {
  const Gguf file = Gguf::open(fs::path(STEM_SOURCE_DIR) / "tests" / "golden" / "gguf" / "blocks.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.alignment(), 32u);
  EXPECT_EQ(file.text("general.architecture"), "golden");
  EXPECT_EQ(file.integer("kind.uint8"), 255);
  EXPECT_EQ(file.integer("kind.int8"), -128);
  EXPECT_EQ(file.integer("kind.uint16"), 65535);
  EXPECT_EQ(file.integer("kind.int16"), -32768);
  EXPECT_EQ(file.integer("kind.uint32"), 4294967295);
  EXPECT_EQ(file.integer("kind.int32"), -2147483648);
  EXPECT_EQ(file.integer("kind.int64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_THROW(file.integer("kind.uint64"), Error);
  EXPECT_EQ(file.number("kind.uint64"), 18446744073709551616.0);
  EXPECT_EQ(file.number("kind.int8"), -128.0);
  EXPECT_EQ(file.number("kind.float32"), 0.5);
  EXPECT_EQ(file.number("kind.float64"), 0.1);
  EXPECT_TRUE(file.flag("kind.bool"));
  EXPECT_EQ(file.text("kind.string"), "é\n\"x\"");
  EXPECT_EQ(file.strings("array.strings"), (std::vector<std::string>{"", "Ġthe", "a b\n"}));
  EXPECT_EQ(file.integers("array.ints"), (std::vector<std::int64_t>{3, -4, 5}));
  EXPECT_EQ(file.numbers("array.floats"), (std::vector<double>{0.25, -1.5}));
  EXPECT_EQ(file.described("array.bools"), "an array of 2 bools");

  EXPECT_FALSE(file.has("absent"));
  EXPECT_EQ(file.find_text("absent"), nullptr);
  EXPECT_EQ(file.find_strings("absent"), nullptr);
  EXPECT_EQ(file.find_integer("absent"), std::nullopt);
  EXPECT_EQ(file.find_number("absent").value_or(2.5), 2.5);
  EXPECT_EQ(file.find_flag("absent"), std::nullopt);
  EXPECT_EQ(file.find_integers("absent"), std::nullopt);
  EXPECT_EQ(file.find_numbers("absent"), std::nullopt);
}

TEST(GgufShared, VocabularyOfGpt2) {
  const char* set = std::getenv("STEM_SHARED");
  const fs::path shared = set != nullptr ? set : STEM_SOURCE_DIR "/../shared";
  const fs::path path = shared / "data/tokenizer/ggml-vocab-gpt-2.gguf";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is absent";
  const Gguf file = Gguf::open(path);
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_EQ(file.text("general.architecture"), "gpt2");
  EXPECT_EQ(file.integer("gpt2.block_count", 1, 1000), 12);
  EXPECT_FLOAT_EQ(static_cast<float>(file.number("gpt2.attention.layer_norm_epsilon")), 1e-5f);
  EXPECT_EQ(file.text("tokenizer.ggml.model"), "gpt2");
  const std::vector<std::string>& tokens = file.strings("tokenizer.ggml.tokens");
  ASSERT_EQ(tokens.size(), 50257u);
  EXPECT_EQ(tokens[262], "Ġthe");
  EXPECT_EQ(tokens[50256], "<|endoftext|>");
  EXPECT_EQ(file.integers("tokenizer.ggml.token_type").size(), tokens.size());
  EXPECT_EQ(file.strings("tokenizer.ggml.merges").front(), "Ġ t");
  EXPECT_EQ(file.integer("tokenizer.ggml.eos_token_id"), 50256);
}

TEST_F(GgufFile, ShapesAreRowMajorAndRowsCanBeRead) {
  Bytes bytes;
  bytes.header(3, 1, 2).key("general.alignment", 4).u32(64);
  bytes.tensor("scalar", {}, 0, 64).tensor("w", {2, 3}, 0, 0).tensor("none", {32, 0}, 2, 128);
  bytes.data(0, 64);
  const std::uint64_t start = bytes.bytes.size();
  for (int i = 1; i <= 6; ++i) bytes.put(static_cast<float>(i));
  bytes.data(0, 64).put(9.0f);
  const Gguf file = open(bytes);
  EXPECT_EQ(file.version(), 2u);
  EXPECT_EQ(file.alignment(), 64u);
  EXPECT_EQ(file.data_start(), start);
  ASSERT_EQ(file.tensors().size(), 3u);
  const GgufTensor& w = file.tensor("w");
  EXPECT_EQ(w.shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(w.described(), "F32 [3, 2]");
  EXPECT_EQ(w.offset, start);
  EXPECT_EQ(w.bytes.size(), 24u);
  EXPECT_EQ(w.bytes.data(), file.file().data() + start);
  EXPECT_EQ(file.tensor("none").bytes.size(), 0u);
  EXPECT_EQ(file.find_tensor("absent"), nullptr);

  std::vector<float> rows(4);
  file.read_rows(w, 1, rows);
  EXPECT_EQ(rows, (std::vector<float>{3, 4, 5, 6}));
  file.read_rows(file.tensor("scalar"), 0, std::span(rows).first(1));
  EXPECT_EQ(rows[0], 9.0f);
  EXPECT_DEATH(file.read_rows(w, 2, rows), "rows of the tensor");
  EXPECT_DEATH(file.read_rows(w, 0, std::span(rows).first(3)), "whole rows");

  EXPECT_EQ(&file.expect("w", std::vector<std::int64_t>{-1, 2}), &w);
  EXPECT_EQ(failure(
                [&] {
                  file.expect("w", std::vector<std::int64_t>{2, 3});
                },
                ErrorCode::kMismatch),
            "w: expected shape [2, 3], found [3, 2]");
  EXPECT_EQ(failure([&] { file.tensor("scalars"); }, ErrorCode::kNotFound),
            "no tensor scalars (did you mean \"scalar\"?)");

  // The bytes of a file that was cut afterwards are an error, not a signal.
  fs::resize_file(path, start + 8);
  EXPECT_NE(failure([&] { file.read_rows(w, 1, rows); }, ErrorCode::kIo), "no error");
}

TEST_F(GgufFile, ForeignTypesAreListedButNotComputedWith) {
  const Gguf file = open(one({32}, 20, 0, 18));
  EXPECT_EQ(file.tensors()[0].described(), "IQ4_NL [32]");
  std::vector<float> values(32);
  EXPECT_EQ(failure([&] { file.read_rows(file.tensors()[0], 0, values); }),
            "a: cannot compute with type IQ4_NL");
}

TEST_F(GgufFile, GettersNameExpectedAndFound) {
  Bytes bytes;
  bytes.header(0, 6).key("llama.block_count", 4).u32(5);
  bytes.key("big", 10).u64(kAll).key("name", 8).text("a\nb").key("nan", 6).put(NAN);
  bytes.array("ids", 10, 2).u64(7).u64(kAll).array("tokens", 8, 0);
  const Gguf file = open(bytes);
  EXPECT_EQ(failure([&] { file.integer("llama.block_counts"); }),
            "llama.block_counts: expected an integer, found nothing (did you mean \"llama.block_count\"?)");
  EXPECT_EQ(failure([&] { file.integer("llama.block_count", 1, 4); }),
            "llama.block_count: expected an integer in [1, 4], found uint32 5");
  EXPECT_EQ(failure([&] { file.integer("big"); }),
            "big: expected an integer, found uint64 18446744073709551615");
  EXPECT_EQ(failure([&] { file.find_integer("name"); }), "name: expected an integer, found \"a\\nb\"");
  EXPECT_EQ(failure([&] { file.number("nan"); }), "nan: expected a finite number, found float32 nan");
  EXPECT_EQ(failure([&] { file.text("ids"); }), "ids: expected a text, found an array of 2 uint64s");
  EXPECT_EQ(failure([&] { file.flag("big"); }),
            "big: expected true or false, found uint64 18446744073709551615");
  EXPECT_EQ(failure([&] { file.integers("ids"); }),
            "ids: expected integers below 2^63, found 18446744073709551615 at index 1");
  EXPECT_EQ(failure([&] { file.strings("name"); }), "name: expected an array of texts, found \"a\\nb\"");
  EXPECT_EQ(failure([&] { file.numbers("tokens"); }),
            "tokens: expected an array of numbers, found an array of 0 strings");
  EXPECT_EQ(failure([&] { file.strings("absent"); }), "absent: expected an array of texts, found nothing");
  EXPECT_EQ(file.numbers("ids").size(), 2u);
  EXPECT_TRUE(file.strings("tokens").empty());
}

TEST_F(GgufFile, BadHeaders) {
  EXPECT_EQ(refused({}), "magic: expected 4 bytes at byte 0, found the end of the file at 0");
  EXPECT_EQ(refused({"GGML\3"}), "magic: expected \"GGUF\" at byte 0");
  EXPECT_EQ(refused(Bytes().header(0, 0, 1)), "version: expected 2 or 3, found 1");
  EXPECT_EQ(refused(Bytes().header(0, 0, 0)), "version: expected 2 or 3, found 0");
  EXPECT_EQ(refused(Bytes().header(0, 0, 4)), "version: expected 2 or 3, found 4");
  EXPECT_EQ(refused(Bytes().header(0, 0, 3u << 24)),
            "version: expected a little-endian file, found a big-endian one");
  EXPECT_EQ(refused(Bytes().header(kAll, 0)),
            "tensor count: expected at most 100000, found " + std::to_string(kAll));
  EXPECT_EQ(refused(Bytes().header(0, kAll)),
            "metadata count: expected at most 65536, found " + std::to_string(kAll));
  EXPECT_EQ(refused(Bytes().header(1, 0)),
            "tensor 0: name: expected 8 bytes at byte 24, found the end of the file at 24");
}

TEST_F(GgufFile, BadMetadata) {
  const auto keys = [](std::uint64_t count) { return Bytes().header(0, count); };
  EXPECT_EQ(refused(keys(1).text("")), "metadata entry 0: key: expected 1 to 65535 bytes, found 0");
  EXPECT_EQ(refused(keys(1).u64(kAll)),
            "metadata entry 0: key: expected 1 to 65535 bytes, found " + std::to_string(kAll));
  EXPECT_EQ(refused(keys(1).u64(100).u32(0)),
            "metadata entry 0: key: expected 100 bytes at byte 32, found the end of the file at 36");
  EXPECT_EQ(refused(keys(1).key("a b", 4).u32(0)),
            "metadata entry 0: key: expected printable ASCII without spaces, found \"a b\"");
  EXPECT_NE(refused(keys(1).key("\xff\n", 4).u32(0)), "no error");
  EXPECT_EQ(refused(keys(1).key("a", 13)),
            "metadata entry 0 \"a\": type: expected a value type below 13, found 13");
  EXPECT_EQ(refused(keys(1).array("a", 99, 1)),
            "metadata entry 0 \"a\": element type: expected a value type below 13, found 99");
  EXPECT_EQ(refused(keys(1).array("a", 9, 1).u32(0).u64(1)),
            "metadata entry 0 \"a\": element type: expected no array inside an array");
  EXPECT_EQ(refused(keys(1).key("a", 7).put('\2')),
            "metadata entry 0 \"a\": value: expected a bool of 0 or 1, found another byte");
  EXPECT_EQ(refused(keys(2).key("a", 4).u32(1).key("a", 4).u32(1)),
            "metadata entry 1 \"a\": key: expected each key once, found it again");
  // Lengths past the end, and sizes that overflow
  EXPECT_EQ(refused(keys(1).key("a", 8).u64(9).u64(0)),
            "metadata entry 0 \"a\": value: expected 9 bytes at byte 45, found the end of the file at 53");
  EXPECT_NE(refused(keys(1).key("a", 8).u64(kAll)), "no error");
  EXPECT_NE(refused(keys(1).array("a", 8, 1).u64(kAll - 60)), "no error");
  EXPECT_EQ(refused(keys(1).array("a", 10, kAll / 8 + 2).u64(0)),
            "metadata entry 0 \"a\": array length: the size of 2305843009213693953 values overflows");
  EXPECT_NE(refused(keys(1).array("a", 0, kAll).u64(0)), "no error");
  EXPECT_EQ(refused(keys(1).array("a", 8, 3).u64(0).u64(0)),
            "metadata entry 0 \"a\": array length: expected 24 bytes at byte 49, found the end of the file "
            "at 65");
  EXPECT_EQ(refused(keys(1).array("a", 8, kAll)),
            "metadata entry 0 \"a\": array length: expected at most 4000000 strings in the file, found " +
                std::to_string(kAll) + " more after 0");
}

TEST_F(GgufFile, BadAlignments) {
  const auto aligned = [&](std::uint32_t alignment) {
    return Bytes().header(1, 1).key("general.alignment", 4).u32(alignment).tensor("a", {1}, 0, 0);
  };
  for (const std::uint32_t alignment : {0u, 1u, 3u, 4u, 24u, 1u << 17, 1u << 31, 0xffffffffu}) {
    EXPECT_EQ(
        refused(aligned(alignment).data(4)),
        fmt::format("general.alignment: expected a power of two in [8, 65536] as uint32, found uint32 {}",
                    alignment));
  }
  EXPECT_EQ(open(aligned(65536).data(4, 65536)).data_start(), 65536u);
  EXPECT_EQ(open(aligned(8).data(4, 8)).data_start() % 8, 0u);
  EXPECT_EQ(refused(Bytes().header(0, 1).key("general.alignment", 8).text("32")),
            "general.alignment: expected a power of two in [8, 65536] as uint32, found \"32\"");
  EXPECT_NE(refused(Bytes().header(0, 1).array("general.alignment", 4, 1).u32(32)), "no error");
  EXPECT_NE(refused(Bytes().header(0, 1).array("general.alignment", 4, 0)), "no error");
  EXPECT_NE(refused(Bytes().header(0, 1).key("general.alignment", 10).u64(32)), "no error");
}

TEST_F(GgufFile, BadTensors) {
  EXPECT_EQ(refused(Bytes().header(1, 0).tensor(std::string(65, 'n'), {1}, 0, 0).data(4)),
            "tensor 0: name: expected 1 to 64 bytes, found 65");
  EXPECT_NE(refused(Bytes().header(1, 0).tensor("", {1}, 0, 0).data(4)), "no error");
  EXPECT_NE(refused(Bytes().header(1, 0).tensor("a\n", {1}, 0, 0).data(4)), "no error");
  EXPECT_EQ(refused(Bytes().header(2, 0).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32).data(36)),
            "tensor 1 \"a\": name: expected each name once, found it again");
  EXPECT_EQ(refused(one({1, 1, 1, 1, 1}, 0, 0, 4)),
            "tensor 0 \"a\": dimensions: expected at most 4, found 5");
  EXPECT_EQ(refused(one({1}, 4, 0, 4)), "tensor 0 \"a\": type: expected a type of the format, found 4");
  EXPECT_EQ(refused(one({1}, kAll & 0xffffffff, 0, 4)),
            "tensor 0 \"a\": type: expected a type of the format, found 4294967295");
  // Sizes that overflow: one extent, the product (also beside an extent of zero), the bytes
  EXPECT_EQ(refused(one({kAll}, 0, 0, 4)),
            "tensor 0 \"a\": shape: the size overflows: extent 18446744073709551615 on top of []");
  EXPECT_NE(refused(one({2, kAll - 1}, 0, 0, 4)), "no error");
  EXPECT_EQ(refused(one({2, kAll / 2}, 24, 0, 4)),  // a product that 64 bits hold and an int64 does not
            "tensor 0 \"a\": shape: the size overflows: extent 9223372036854775807 on top of [2]");
  EXPECT_NE(refused(one({0, kAll / 4, kAll / 4}, 0, 0, 4)), "no error");
  EXPECT_NE(refused(one({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 0, 4)), "no error");
  EXPECT_EQ(refused(one({std::uint64_t{1} << 62}, 0, 0, 4)),
            "tensor 0 \"a\": shape: the size of F32 [4611686018427387904] overflows");
  EXPECT_EQ(refused(one({16, 2}, 2, 0, 18)),
            "tensor 0 \"a\": shape: expected rows of a multiple of 32 values, found Q4_0 [2, 16]");
  EXPECT_NE(refused(one({}, 2, 0, 18)), "no error");
}

TEST_F(GgufFile, BadOffsets) {
  EXPECT_EQ(open(one({8}, 0, 0, 32)).tensors()[0].bytes.size(), 32u);
  EXPECT_EQ(refused(one({8}, 0, 0, 31)),
            "\"a\": offset: F32 [8] takes 32 bytes at 0 of the data, found 31 bytes of data");
  EXPECT_EQ(refused(one({8}, 0, 4, 64)), "\"a\": offset: expected a multiple of 32, found 4");
  EXPECT_NE(refused(one({8}, 0, 32, 63)), "no error");
  EXPECT_NE(refused(one({8}, 0, kAll - 31, 64)), "no error");  // offset + size wraps to 0
  EXPECT_NE(refused(one({8}, 0, std::uint64_t{1} << 63, 64)), "no error");
  EXPECT_NE(refused(one({0}, 0, kAll - 31, 64)), "no error");
  EXPECT_NE(refused(Bytes().header(1, 0).tensor("a", {1}, 24, 0)), "no error");  // no data, no padding
  const auto two = [](std::uint64_t first, std::uint64_t second) {
    return Bytes().header(2, 0).tensor("a", {9}, 0, first).tensor("b", {8}, 0, second).data(128);
  };
  EXPECT_EQ(refused(two(0, 32)), "\"b\": offset: expected at least 36, where \"a\" ends, found 32");
  EXPECT_EQ(refused(Bytes().header(2, 0).tensor("a", {33}, 24, 0).tensor("b", {8}, 24, 32).data(128)),
            "\"b\": offset: expected at least 33, where \"a\" ends, found 32");
  EXPECT_NE(refused(two(0, 0)), "no error");
  EXPECT_NE(refused(two(32, 32)), "no error");
  EXPECT_EQ(open(two(32, 0)).tensors()[1].name, "b");  // any order, holes and trailing bytes
  EXPECT_EQ(open(two(0, 64)).tensors().size(), 2u);
}

TEST_F(GgufFile, LimitsCostNoMemoryAndLittleTime) {
  const auto start = std::chrono::steady_clock::now();
  // A terabyte of zeros behind a length that reaches into it
  put(Bytes().header(0, 1).key("a", 8).u64(std::uint64_t{1} << 39).bytes);
  const bool sparse = ::truncate(path.c_str(), off_t{1} << 40) == 0;
  if (sparse) {
    EXPECT_EQ(
        failure([&] { Gguf::open(path); }),
        "metadata entry 0 \"a\": value: expected a header of at most 100000000 bytes, found 549755813888 "
        "more at byte 45");
    put(one({std::uint64_t{1} << 38}, 0, 0, 0).bytes);
    ASSERT_EQ(::truncate(path.c_str(), (off_t{1} << 40) + 128), 0);
    EXPECT_EQ(Gguf::open(path).tensors()[0].bytes.size(), std::uint64_t{1} << 40);
  }
  // Many strings, and as many keys and tensors as there may be
  Bytes bytes;
  bytes.header(0, 1).array("a", 8, 1'000'000);
  for (int i = 0; i < 1'000'000; ++i) bytes.u64(1).put('x');
  EXPECT_EQ(open(bytes).strings("a").size(), 1'000'000u);
  bytes = Bytes().header(20'000, 65'536);
  for (int i = 0; i < 65'536; ++i) bytes.key(fmt::format("k{}", i), 0).put('x');
  for (int i = 0; i < 20'000; ++i) bytes.tensor(fmt::format("t{}", i), {0}, 0, 0);
  EXPECT_EQ(open(bytes).tensors().size(), 20'000u);
  // A fraction of a second on an idle machine; the slack is for sanitizers and busy ones.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// What was accepted can be used.
void touch(const Gguf& file) {
  for (const std::string& key : file.keys()) {
    EXPECT_FALSE(file.described(key).empty());
    for (const auto& get : std::vector<std::function<void()>>{
             [&] { file.text(key); }, [&] { file.flag(key); }, [&] { file.integer(key); },
             [&] { file.number(key); }, [&] { file.strings(key); }, [&] { file.integers(key); },
             [&] { file.numbers(key); }}) {
      try {
        get();
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kFormat);
      }
    }
  }
  for (const GgufTensor& tensor : file.tensors()) {
    ASSERT_LE(tensor.offset + tensor.bytes.size(), file.file().size() + 65'536);
    if (!can_dequantise(tensor.type)) continue;
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    file.read_rows(tensor, 0, values);
    dequantise(tensor.type, tensor.bytes, values);
  }
}

TEST_F(GgufFile, EveryCutAndEveryFlippedByteIsAnErrorOrAFile) {
  Bytes good;
  good.header(3, 6).key("general.alignment", 4).u32(32).key("general.name", 8).text("small");
  good.key("b", 7).put('\1').array("t", 8, 2).text("x").text("").array("i", 5, 2).u64(5).key("f", 6).put(
      1.5f);
  good.tensor("w", {32, 2}, 2, 0).tensor("n", {4}, 0, 64).tensor("e", {0, 2}, 1, 96);
  const std::size_t header = good.bytes.size();
  good.data(80);
  touch(open(good));

  int accepted = 0, refused = 0;
  const auto check = [&](const std::string& bytes) {
    put(bytes);
    try {
      touch(Gguf::open(path));
      ++accepted;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      ++refused;
    }
  };
  for (std::size_t size = 0; size < good.bytes.size(); ++size) check(good.bytes.substr(0, size));
  EXPECT_EQ(accepted, 0);  // the last tensor with bytes ends where the file ends
  EXPECT_EQ(static_cast<std::size_t>(refused), good.bytes.size());
  for (std::size_t at = 0; at < header; ++at) {
    for (const int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string bytes = good.bytes;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      check(bytes);
    }
  }
  EXPECT_GT(accepted, 300);  // flips in names and values
  EXPECT_GT(refused, 2000);
}

}  // namespace
}  // namespace stem
