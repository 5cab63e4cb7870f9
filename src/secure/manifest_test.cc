#include "secure/manifest.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/utc.h"
#include "io/file.h"
#include "io/json.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;
using Kind = Difference::Kind;

class ManifestFile : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(dir / "sub");
    put("config.json", "{}");
    put("tokenizer.json", "{\"t\":1}");
    put("stem_table.safetensors", std::string(5000, 'r'));
    put("sub/stats.bin", "123");
    Manifest draft;
    draft.token_stats = "sub/stats.bin";
    written = write_manifest(dir, draft);
  }
  void put(const std::string& name, std::string_view bytes) const { std::ofstream(dir / name) << bytes; }
  // Changes the manifest's JSON, then tells how reading and verifying fail.
  std::string with(const std::function<void(Json&)>& change) const {
    Json json = parse_json(read_file(dir / "stem.json"), "stem.json");
    change(json);
    put("stem.json", json.dump());
    return failure();
  }
  std::string failure(std::time_t now = std::time(nullptr)) const {
    try {
      verify_manifest(dir, now);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  const TemporaryFolder folder;
  const fs::path top = folder.path();
  const fs::path dir = top / "m";
  Manifest written;
};

TEST_F(ManifestFile, RoundTrip) {
  const Manifest read = verify_manifest(dir);
  EXPECT_EQ(read.uuid, written.uuid);
  EXPECT_EQ(read.model_version, 1);
  EXPECT_EQ(read.created, written.created);
  EXPECT_EQ(read.files.size(), 4u);
  EXPECT_EQ(read.files.at("sub/stats.bin").bytes, 3u);
  EXPECT_EQ(read.tokenizer, sha256("{\"t\":1}"));
  EXPECT_EQ(read.token_stats, "sub/stats.bin");
  EXPECT_FALSE(read.expires);
  put("stem.sig", "a signature comes later");
  EXPECT_EQ(failure(), "no error");
  const Manifest again = write_manifest(dir, read);  // keeps who the model is
  EXPECT_EQ(again.uuid, read.uuid);
  EXPECT_EQ(again.files.size(), 4u);
}

TEST_F(ManifestFile, NamesFileExpectedAndFound) {
  std::string changed(5000, 'r');
  changed[4999] = 'q';
  put("stem_table.safetensors", changed);
  EXPECT_EQ(failure(), (dir / "stem_table.safetensors").string() + ": SHA-256 expected " +
                           to_hex(sha256(std::string(5000, 'r'))) + ", found " + to_hex(sha256(changed)) +
                           " (manifest stem.json): the file was changed after the model was saved");
}

TEST_F(ManifestFile, ListsEveryDifference) {
  put("config.json", "{ }");
  put("extra", "");
  fs::remove(dir / "tokenizer.json");
  put("sub/stats.bin", "124");
  put("../outside", "123");
  fs::remove(dir / "stem_table.safetensors");
  fs::create_symlink("../outside", dir / "stem_table.safetensors");
  const auto found = manifest_differences(dir, read_manifest(dir));
  std::vector<std::pair<Kind, std::string>> kinds;
  for (const Difference& d : found) kinds.emplace_back(d.kind, d.file);
  EXPECT_EQ(kinds, (std::vector<std::pair<Kind, std::string>>{{Kind::size, "config.json"},
                                                              {Kind::extra, "extra"},
                                                              {Kind::outside, "stem_table.safetensors"},
                                                              {Kind::digest, "sub/stats.bin"},
                                                              {Kind::missing, "tokenizer.json"}}));
  EXPECT_NE(failure().find("4 more differences"), std::string::npos);
}

TEST_F(ManifestFile, Expires) {
  Manifest draft = written;
  draft.expires = "2030-01-01T00:00:00Z";
  write_manifest(dir, draft);
  std::time_t at = 0;
  ASSERT_TRUE(parse_utc("2030-01-01T00:00:00Z", &at));
  EXPECT_EQ(failure(at - 1), "no error");
  EXPECT_NE(failure(at).find("expired at 2030-01-01T00:00:00Z"), std::string::npos);
}

TEST_F(ManifestFile, RefusesPathsThatLeaveTheDirectory) {
  const Json entry = {{"sha256", to_hex(sha256("x"))}, {"bytes", 1}};
  for (const char* name : {"../x", "/etc/passwd", "a/../../x", "./config.json", "a//b", "a/", "", "..",
                           "x\\y", "x\ny", "stem.json"}) {
    TearDown();
    SetUp();
    EXPECT_NE(with([&](Json& json) { json["files"][name] = entry; }).find("not a path inside"),
              std::string::npos)
        << name;
  }
  TearDown();
  SetUp();
  fs::create_directory_symlink("/", dir / "root");
  EXPECT_NE(with([&](Json& json) { json["files"]["root/etc/passwd"] = entry; }), "no error");
}

TEST_F(ManifestFile, RefusesMalformedFields) {
  const std::vector<std::pair<std::function<void(Json&)>, const char*>> cases{
      {[](Json& j) { j["format"] = "stem-model/2"; },
       "format: expected \"stem-model/1\", found \"stem-model/2\""},
      {[](Json& j) { j.erase("uuid"); }, "uuid: expected a string, found nothing"},
      {[](Json& j) { j["uuid"] = "x"; }, "uuid: expected a lower-case UUID"},
      {[](Json& j) { j["model_version"] = 0; }, "model_version: expected an integer of at least 1, found 0"},
      {[](Json& j) { j["created"] = "2026-02-30T00:00:00Z"; }, "created: expected a time"},
      {[](Json& j) { j["expires"] = "tomorrow"; }, "expires: expected a time"},
      {[](Json& j) { j["tokenizer_sha256"] = "AB"; }, "tokenizer_sha256: expected 64"},
      {[](Json& j) { j["files"]["config.json"]["bytes"] = -1; }, "bytes: expected an integer of at least 0"},
      {[](Json& j) { j["files"]["config.json"]["sha256"] = std::string(64, 'g'); }, "sha256: expected 64"},
      {[](Json& j) { j["files"]["config.json"]["mode"] = 1; }, "unknown key \"mode\""},
      {[](Json& j) { j["token_stats"] = "absent"; }, "token_stats: \"absent\" is not among the files"},
      {[](Json& j) { j["expire"] = "2030-01-01T00:00:00Z"; },
       "unknown key \"expire\" (did you mean \"expires\"?)"},
      {[](Json& j) { j["tokenizer_sha256"] = to_hex(sha256("x")); }, "tokenizer_sha256 expected"},
  };
  for (const auto& [change, expected] : cases) {
    TearDown();
    SetUp();
    const std::string found = with(change);
    EXPECT_NE(found.find(expected), std::string::npos) << found;
  }
}

TEST_F(ManifestFile, WriterRefusesLinksOut) {
  fs::create_symlink("/etc/passwd", dir / "passwd");
  EXPECT_THROW(write_manifest(dir, written), Error);
}

TEST_F(ManifestFile, EveryFlippedBitIsSeen) {
  for (const char* name : {"config.json", "tokenizer.json", "sub/stats.bin"}) {
    const std::string good = read_file(dir / name);
    for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      put(name, bad);
      EXPECT_NE(failure(), "no error") << name << " bit " << bit;
    }
    put(name, good);
  }
  EXPECT_EQ(failure(), "no error");
}

}  // namespace
}  // namespace stem
