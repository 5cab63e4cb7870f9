#include "report/event_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

class EventFileTest : public testing::Test {
 protected:
  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(folder_)) all.push_back(entry.path());
    std::sort(all.begin(), all.end());
    return all;
  }
  const TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

/// The payloads of a file's records; fails where a length or a checksum is not what follows from the bytes.
std::vector<std::string> payloads(const std::string& bytes) {
  std::vector<std::string> found;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i)
      length = length << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
    const std::string payload = bytes.substr(at + 12, length), record = tf_record(payload);
    EXPECT_EQ(hex(bytes.substr(at, record.size())), hex(record));
    found.push_back(payload);
    at += record.size();
  }
  return found;
}

// RFC 3720, appendix B.4, and the check value of every list of CRCs.
TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending.push_back(c);
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
}

// The bytes that TensorBoard's own RecordWriter makes of these payloads.
TEST(TfRecord, KnownBytes) {
  EXPECT_EQ(hex(tf_record("")), "000000000000000029039807d8ea82a2");
  EXPECT_EQ(hex(tf_record("stem")), "0400000000000000424552047374656d23d45fd6");
}

// The third is what TensorBoard's protocol buffers make of the same event.
TEST_F(EventFileTest, HoldsEventsByteForByte) {
  {
    EventFile events(folder_, 3);
    events.scalar("a/b", 300, 0.5, 2.0);
    events.scalar("n", 0, NAN, 2.0);
  }
  ASSERT_EQ(files().size(), 1u);
  const std::vector<std::string> found = payloads(read_file(files()[0]));
  ASSERT_EQ(found.size(), 4u);
  // wall_time (field 1) is the time of the test; what follows is known: "brain.Event:2"; step 3, status
  // START.
  EXPECT_EQ(hex(found[0].substr(0, 1)), "09");
  EXPECT_EQ(hex(found[0].substr(9)), "1a0d" + hex("brain.Event:2"));
  EXPECT_EQ(hex(found[1].substr(9)), "10033a020801");
  // 2.0; step 300; summary of 12 bytes: a value of 10: tag "a/b", simple_value 0.5
  EXPECT_EQ(hex(found[2]),
            "09"
            "0000000000000040"
            "10ac02"
            "2a0c"
            "0a0a"
            "0a03612f62"
            "150000003f");
  EXPECT_EQ(hex(found[3].substr(9)),
            "2a0a"
            "0a08"
            "0a016e"
            "150000c07f");
}

TEST_F(EventFileTest, EveryFlushLeavesWholeRecords) {
  EventFile events(folder_);
  EXPECT_EQ(payloads(read_file(events.path())).size(), 2u);
  events.scalar("loss", 1, 1.0);
  EXPECT_EQ(payloads(read_file(events.path())).size(), 2u);
  events.flush();
  EXPECT_EQ(payloads(read_file(events.path())).size(), 3u);
  for (int step = 0; step < 5000; ++step) events.scalar("loss", step, 1.0);  // more than is kept waiting
  EXPECT_GT(payloads(read_file(events.path())).size(), 1000u);
}

TEST_F(EventFileTest, AResumedRunBeginsAnotherFileThatSortsBehind) {
  { const EventFile first(folder_); }
  { const EventFile second(folder_, 11); }  // in the same second
  { const EventFile third(folder_, 11); }
  ASSERT_EQ(files().size(), 3u);
  EXPECT_EQ(hex(payloads(read_file(files()[0]))[1].substr(9)), "10013a020801");
  EXPECT_EQ(hex(payloads(read_file(files()[1]))[1].substr(9)), "100b3a020801");
  write_file_atomic(folder_ / "metrics.jsonl", "kept");
  { const EventFile again(folder_); }  // from the beginning: what was told is gone
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(fs::exists(folder_ / "metrics.jsonl"));
}

TEST_F(EventFileTest, AFolderThatCannotBeMadeIsNamed) {
  write_file_atomic(folder_ / "file", "x");
  try {
    const EventFile events(folder_ / "file" / "tb");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(e.what()).find("file/tb"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace stem
