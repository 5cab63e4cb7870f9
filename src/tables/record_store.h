// Records on disk: read as they are asked for, the most used ones kept in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/trace.h"
#include "core/workspace.h"
#include "io/read_queue.h"
#include "tables/frequency_lists.h"

namespace stem {

/// Looks at a record's bytes once, as it enters memory; throws Error to refuse it. Called on the engine
/// thread.
using RowVerifier = std::function<void(std::int32_t token, std::span<const std::byte> record)>;

/// What a store did. Counts since it was opened; subtract two to get those of a run.
struct TableStats {
  std::int64_t asked = 0;              ///< positions of batches
  std::int64_t distinct = 0;           ///< distinct records of each batch, summed
  std::int64_t hits = 0;               ///< of these: in memory since an earlier batch
  std::int64_t misses = 0;             ///< had to be read, ahead or when asked; hits + misses = distinct
  std::int64_t reads = 0;              ///< reads started
  std::int64_t bytes_read = 0;         ///< bytes that they brought, whole blocks
  std::int64_t most_in_flight = 0;     ///< reads at a time
  std::int64_t stall_us = 0;           ///< time that acquire waited
  std::int64_t prefetched_used = 0;    ///< read ahead, then asked for
  std::int64_t prefetched_unused = 0;  ///< read ahead in vain

  TableStats since(const TableStats& earlier) const;
  TableStats& operator+=(const TableStats& more);
  double hit_rate() const;  ///< hits / distinct; 0 before anything was asked
};

/// Where the records lie: record t at first + t · record_bytes.
struct RecordFile {
  std::filesystem::path path;
  std::uint64_t first = 0, record_bytes = 0;
  std::int64_t records = 0;
};

/// A record that could not be had, and why.
struct RecordFailure {
  std::int32_t token = 0;
  ErrorCode code{};
  std::string message;
};

/// Reads records and keeps what was used most in `budget_bytes` (FrequencyLists). A record that somebody
/// holds (RecordLease) stays where it is. Records beyond the budget, and those used less than everything that
/// is kept, live only as long as they are held. One engine thread calls everything.
class RecordStore {
 public:
  /// kUsage, naming both sizes, when the budget holds no record; errors of ReadQueue::open; kFormat when the
  /// file ends before the last record.
  RecordStore(const RecordFile& file, std::int64_t budget_bytes, const ReadQueueOptions& read = {},
              RowVerifier verifier = {});
  ~RecordStore();
  RecordStore(const RecordStore&) = delete;
  RecordStore& operator=(const RecordStore&) = delete;

  /// Starts reading those of the records that are not in memory, and returns. A hint: at most a sixteenth of
  /// the budget (8 to 512 records) is read ahead of its use; what comes next then takes the place of what was
  /// read ahead first, and where nothing can be given up the hint is dropped.
  void prefetch(std::span<const std::int32_t> tokens);
  /// Gives up all that is kept and nobody holds: what follows is cold.
  void drop();

  /// Writes how many reads are in flight, and every wait for one, to a timeline; null: no longer.
  void trace(TraceWriter* to) { trace_ = to; }

  const TableStats& stats() const { return stats_; }
  std::int64_t capacity() const { return capacity_; }  ///< records that the budget holds
  std::int64_t kept() const { return lists_.size(); }  ///< records in memory that nobody holds
  std::uint64_t record_bytes() const { return file_.record_bytes; }
  const ReadQueue& queue() const { return *queue_; }

 private:
  friend class RecordLease;
  enum class State { reading, ready, failed };
  struct Entry {
    std::int32_t token = -1;
    State state = State::reading;
    std::int32_t holders = 0;
    std::int64_t ahead = 0;  // > 0: read ahead and not asked for yet; numbers them
    char* data = nullptr;
    Buffer own;  // its memory where the budget's had no place
    ErrorCode code{};
    std::string message;  // why it failed
  };
  struct Stage {  // where a read lands, whole blocks
    Buffer memory;
    Entry* entry = nullptr;
    int attempts = 0;
  };

  Entry* find(std::int32_t token) const;
  Entry& make(std::int32_t token);  // and starts reading it
  void place(Entry& entry);
  char* free_slot();
  void hold(std::int32_t token);
  void release(std::int32_t token);
  void settle(Entry& entry);
  void evict(std::int32_t token);
  void erase(Entry& entry);
  void wait_for(std::int32_t token);

  bool forget_one_ahead();
  void start_pending();
  void collect(bool wait);
  void trace_in_flight() const;
  void finish(std::size_t stage, std::int64_t got);
  void fill(Entry& entry, const char* bytes, std::int64_t got);
  ReadJob job_of(std::size_t stage) const;

  RecordFile file_;
  RowVerifier verifier_;
  std::uint64_t slot_bytes_ = 0, block_ = 1, stage_bytes_ = 0;
  std::int64_t capacity_ = 0, ahead_limit_ = 0;
  std::unique_ptr<ReadQueue> queue_;

  FrequencyLists lists_;
  std::vector<std::unique_ptr<Entry>> entries_;  // [V], null: not in memory
  std::vector<Buffer> slabs_;                    // the budget, taken as it fills
  std::vector<char*> free_slots_;
  std::int64_t slots_made_ = 0;
  std::vector<Stage> stages_;
  std::vector<std::size_t> free_stages_;
  std::deque<std::int32_t> pending_;                         // tokens whose read waits for a stage
  std::deque<std::pair<std::int32_t, std::int64_t>> ahead_;  // token, Entry::ahead; oldest first
  std::int64_t ahead_count_ = 0, ahead_number_ = 0;
  std::vector<ReadResult> results_;
  TableStats stats_;
  TraceWriter* trace_ = nullptr;
};

/// Records in use: they stay in memory, where they are, until the lease ends.
class RecordLease {
 public:
  explicit RecordLease(std::shared_ptr<RecordStore> store) : store_(std::move(store)) {}
  ~RecordLease();
  RecordLease(const RecordLease&) = delete;
  RecordLease& operator=(const RecordLease&) = delete;

  /// Holds the records of `tokens` (one for each position that reads) too, and starts reading what is
  /// missing.
  void add(std::span<const std::int32_t> tokens);
  /// Waits until all are read or have failed.
  std::vector<RecordFailure> wait();
  /// The record of a token that was added, waited for and has not failed.
  const void* data(std::int32_t token) const;

 private:
  std::shared_ptr<RecordStore> store_;
  std::vector<std::int32_t> held_;  // ascending
};

}  // namespace stem
