#include "tables/record_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <numeric>

namespace stem {
namespace {

constexpr std::uint64_t kSlotAlign = 64;
constexpr std::uint64_t kSlabBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kStagedBytes = std::uint64_t{16} << 20;  // most memory of reads in flight
constexpr int kMostAttempts = 3;

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

// Blocks that the longest read spans: a record may begin anywhere that the first one and its size allow.
std::uint64_t longest_read(const RecordFile& f, std::uint64_t block) {
  const std::uint64_t step = std::gcd(f.record_bytes, block);
  const std::uint64_t latest = block - step + f.first % step;  // latest place of a record in its first block
  return round_up(latest + f.record_bytes, block);
}

// Uses after which counts are halved: long against what fits, so that what is kept has been seen often, and
// against V, so that halving costs nothing.
std::int64_t ageing_period(std::int64_t capacity, std::int64_t records) {
  return std::max<std::int64_t>({16 * std::min(capacity, records), records / 4, 64});
}

std::int64_t capacity_of(const RecordFile& f, std::int64_t budget) {
  if (budget < static_cast<std::int64_t>(f.record_bytes)) {
    fail(ErrorCode::kUsage, "{}: table budget: expected at least {} bytes, one record, found {}",
         f.path.string(), f.record_bytes, budget);
  }
  const auto slot = static_cast<std::int64_t>(round_up(f.record_bytes, kSlotAlign));
  return std::max<std::int64_t>(budget / slot, 1);
}

}  // namespace

TableStats TableStats::since(const TableStats& e) const {
  TableStats d = *this;
  d.asked -= e.asked;
  d.distinct -= e.distinct;
  d.hits -= e.hits;
  d.misses -= e.misses;
  d.reads -= e.reads;
  d.bytes_read -= e.bytes_read;
  d.stall_us -= e.stall_us;
  d.prefetched_used -= e.prefetched_used;
  d.prefetched_unused -= e.prefetched_unused;
  return d;  // most_in_flight is no count
}

TableStats& TableStats::operator+=(const TableStats& m) {
  asked += m.asked;
  distinct += m.distinct;
  hits += m.hits;
  misses += m.misses;
  reads += m.reads;
  bytes_read += m.bytes_read;
  stall_us += m.stall_us;
  prefetched_used += m.prefetched_used;
  prefetched_unused += m.prefetched_unused;
  most_in_flight = std::max(most_in_flight, m.most_in_flight);
  return *this;
}

double TableStats::hit_rate() const {
  return distinct == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(distinct);
}

RecordStore::RecordStore(const RecordFile& file, std::int64_t budget_bytes, const ReadQueueOptions& read,
                         RowVerifier verifier)
    : file_(file),
      verifier_(std::move(verifier)),
      slot_bytes_(round_up(file.record_bytes, kSlotAlign)),
      capacity_(capacity_of(file, budget_bytes)),
      ahead_limit_(std::clamp<std::int64_t>(capacity_ / 16, 8, 512)),
      lists_(file.records, ageing_period(capacity_, file.records)),
      entries_(static_cast<std::size_t>(file.records)) {
  require(file.record_bytes > 0 && file.record_bytes < (std::uint64_t{1} << 30), "a record below 1 GiB");
  const std::uint64_t longest = longest_read(file, kDirectBlockBytes);
  ReadQueueOptions options = read;
  options.depth = std::clamp<std::size_t>(kStagedBytes / longest, 8, 256);
  queue_ = ReadQueue::open(file.path, options);
  const std::uint64_t end = file.first + static_cast<std::uint64_t>(file.records) * file.record_bytes;
  if (queue_->file_bytes() < end) {
    fail(ErrorCode::kFormat, "{}: expected {} records of {} bytes, {} bytes in all, found {}",
         file.path.string(), file.records, file.record_bytes, end, queue_->file_bytes());
  }
  block_ = queue_->direct() ? kDirectBlockBytes : 1;
  stage_bytes_ = queue_->direct() ? longest : file.record_bytes;
  stages_.resize(queue_->depth());
  for (std::size_t i = stages_.size(); i-- > 0;) free_stages_.push_back(i);
}

RecordStore::~RecordStore() {
  queue_.reset();  // before the memory that its reads go to
}

RecordStore::Entry* RecordStore::find(std::int32_t token) const {
  require(token >= 0 && token < file_.records, "token outside the table");
  return entries_[static_cast<std::size_t>(token)].get();
}

// Memory of the budget that nothing lies in; null when there is none.
char* RecordStore::free_slot() {
  if (free_slots_.empty() && slots_made_ < capacity_) {
    const auto fit = std::max<std::int64_t>(1, static_cast<std::int64_t>(kSlabBytes / slot_bytes_));
    const std::int64_t count = std::min(fit, capacity_ - slots_made_);
    slabs_.emplace_back(static_cast<std::size_t>(count) * slot_bytes_);
    auto* const base = static_cast<char*>(slabs_.back().data());
    for (std::int64_t i = count; i-- > 0;)
      free_slots_.push_back(base + static_cast<std::uint64_t>(i) * slot_bytes_);
    slots_made_ += count;
  }
  if (free_slots_.empty()) return nullptr;
  char* const slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

// A free place of the budget, one that a record used no more often gives up, or memory of its own.
void RecordStore::place(Entry& entry) {
  entry.data = free_slot();
  if (entry.data != nullptr) return;
  const auto least = lists_.least();
  if (least && lists_.frequency(*least) <= lists_.frequency(entry.token)) {
    evict(*least);
    entry.data = free_slot();
    return;
  }
  entry.own = Buffer(slot_bytes_);
  entry.data = static_cast<char*>(entry.own.data());
}

RecordStore::Entry& RecordStore::make(std::int32_t token) {
  auto entry = std::make_unique<Entry>();
  entry->token = token;
  place(*entry);
  Entry& made = *(entries_[static_cast<std::size_t>(token)] = std::move(entry));
  pending_.push_back(token);
  return made;
}

void RecordStore::evict(std::int32_t token) {
  lists_.remove(token);
  erase(*find(token));
}

void RecordStore::erase(Entry& entry) {
  if (entry.own.size() == 0) free_slots_.push_back(entry.data);
  entries_[static_cast<std::size_t>(entry.token)].reset();
}

void RecordStore::hold(std::int32_t token) {
  Entry* entry = find(token);
  ++stats_.distinct;
  const bool kept = entry != nullptr && entry->holders == 0 && entry->state == State::ready;
  if (kept && entry->ahead == 0) lists_.remove(token);
  lists_.count(token);
  if (entry == nullptr) {
    ++stats_.misses;
    entry = &make(token);
  } else if (entry->ahead > 0) {
    ++stats_.misses;
    ++stats_.prefetched_used;
    entry->ahead = 0;
    --ahead_count_;
  } else if (entry->state == State::ready || entry->holders > 0) {
    ++stats_.hits;
  } else {
    ++stats_.misses;  // a batch that failed has left it in flight
  }
  ++entry->holders;
}

void RecordStore::release(std::int32_t token) {
  Entry& entry = *find(token);
  if (--entry.holders > 0 || entry.state == State::reading) return;  // finish() settles it
  settle(entry);
}

// A record that nobody holds any more is kept, if it was used as often as what it displaces.
void RecordStore::settle(Entry& entry) {
  if (entry.state == State::failed) return erase(entry);
  if (entry.own.size() > 0) {
    char* slot = free_slot();
    const auto least = lists_.least();
    if (slot == nullptr && least && lists_.frequency(*least) <= lists_.frequency(entry.token)) {
      evict(*least);
      slot = free_slot();
    }
    if (slot == nullptr) return erase(entry);
    std::memcpy(slot, entry.data, file_.record_bytes);
    entry.data = slot;
    entry.own = Buffer();
  }
  lists_.add(entry.token);
}

// Gives the oldest record that was read ahead in vain back to the order of use. False where all of them are
// still in flight.
bool RecordStore::forget_one_ahead() {
  for (auto it = ahead_.begin(); it != ahead_.end();) {
    Entry* const entry = find(it->first);
    if (entry == nullptr || entry->ahead != it->second) {  // asked for since
      it = ahead_.erase(it);
      continue;
    }
    if (entry->state == State::reading) return false;
    ahead_.erase(it);
    entry->ahead = 0;
    --ahead_count_;
    ++stats_.prefetched_unused;
    settle(*entry);
    return true;
  }
  return false;
}

void RecordStore::prefetch(std::span<const std::int32_t> tokens) {
  collect(false);
  for (const std::int32_t token : tokens) {
    if (find(token) != nullptr) continue;
    if (ahead_count_ >= ahead_limit_ && !forget_one_ahead()) break;
    Entry& entry = make(token);
    entry.ahead = ++ahead_number_;
    ++ahead_count_;
    ahead_.emplace_back(token, entry.ahead);
  }
  if (ahead_.size() > static_cast<std::size_t>(4 * ahead_limit_)) {
    std::erase_if(ahead_, [&](const auto& a) {
      const Entry* const entry = find(a.first);
      return entry == nullptr || entry->ahead != a.second;
    });
  }
  start_pending();
}

void RecordStore::drop() {
  while (queue_->in_flight() > 0 || !pending_.empty()) collect(true);
  while (ahead_count_ > 0 && forget_one_ahead()) {
  }
  while (const auto least = lists_.least()) evict(*least);
}

ReadJob RecordStore::job_of(std::size_t stage) const {
  const Stage& s = stages_[stage];
  const std::uint64_t at = file_.first + static_cast<std::uint64_t>(s.entry->token) * file_.record_bytes;
  const std::uint64_t begin = at / block_ * block_, end = round_up(at + file_.record_bytes, block_);
  // Direct reads need memory on a block's boundary; a Buffer alone promises less.
  const std::uint64_t memory = round_up(reinterpret_cast<std::uintptr_t>(s.memory.data()), kDirectBlockBytes);
  return {begin, end - begin, reinterpret_cast<void*>(memory), stage};
}

void RecordStore::start_pending() {
  std::vector<ReadJob> jobs;
  while (!pending_.empty() && !free_stages_.empty()) {
    const std::size_t i = free_stages_.back();
    Stage& stage = stages_[i];
    if (stage.memory.size() == 0) stage.memory = Buffer(stage_bytes_ + kDirectBlockBytes);
    free_stages_.pop_back();
    stage.entry = find(pending_.front());
    stage.attempts = 0;
    pending_.pop_front();
    jobs.push_back(job_of(i));
  }
  if (jobs.empty()) return;
  queue_->submit(jobs);
  trace_in_flight();
  stats_.reads += static_cast<std::int64_t>(jobs.size());
  stats_.most_in_flight = std::max(stats_.most_in_flight, static_cast<std::int64_t>(queue_->in_flight()));
}

void RecordStore::collect(bool wait) {
  results_.clear();
  queue_->collect(results_, wait);
  for (const ReadResult& r : results_) finish(static_cast<std::size_t>(r.tag), r.bytes);
  if (!results_.empty()) trace_in_flight();
  start_pending();
}

void RecordStore::trace_in_flight() const {
  if (trace_ != nullptr) trace_->counter("table reads in flight", static_cast<double>(queue_->in_flight()));
}

void RecordStore::finish(std::size_t i, std::int64_t got) {
  Stage& stage = stages_[i];
  if ((got == -EINTR || got == -EAGAIN) && ++stage.attempts < kMostAttempts) {
    const ReadJob again = job_of(i);
    queue_->submit({&again, 1});
    return;
  }
  Entry& entry = *stage.entry;
  fill(entry, static_cast<const char*>(job_of(i).to), got);
  stage.entry = nullptr;
  free_stages_.push_back(i);
  if (entry.ahead > 0 && entry.state == State::failed) {  // whoever needs it reads again and is told
    entry.ahead = 0;
    --ahead_count_;
    ++stats_.prefetched_unused;
    return erase(entry);
  }
  if (entry.holders == 0 && entry.ahead == 0) settle(entry);
}

// The record out of the blocks that were read.
void RecordStore::fill(Entry& entry, const char* bytes, std::int64_t got) {
  entry.state = State::failed;
  entry.code = ErrorCode::kIo;
  const std::uint64_t at = file_.first + static_cast<std::uint64_t>(entry.token) * file_.record_bytes;
  const std::uint64_t before = at % block_, wanted = file_.record_bytes;
  const std::string where = fmt::format("{}: record of token {}: ", file_.path.string(), entry.token);
  if (got < 0) {
    entry.message = fmt::format("{}cannot read {} bytes at {}: {}", where, wanted, at,
                                std::strerror(static_cast<int>(-got)));
    return;
  }
  stats_.bytes_read += got;
  if (static_cast<std::uint64_t>(got) < before + wanted) {
    entry.message =
        fmt::format("{}expected {} bytes at {}, found {}: the file was cut while in use", where, wanted, at,
                    static_cast<std::uint64_t>(got) < before ? 0 : static_cast<std::uint64_t>(got) - before);
    return;
  }
  std::memcpy(entry.data, bytes + before, wanted);
  try {
    if (verifier_) verifier_(entry.token, {reinterpret_cast<const std::byte*>(entry.data), wanted});
    entry.state = State::ready;
  } catch (const Error& e) {
    entry.code = e.code();
    entry.message = e.what();
  } catch (const std::exception& e) {
    entry.code = ErrorCode::kIntegrity;
    entry.message = where + e.what();
  }
}

void RecordStore::wait_for(std::int32_t token) {
  while (find(token)->state == State::reading) {
    require(queue_->in_flight() > 0, "a record that is read is in flight");
    collect(true);
  }
}

RecordLease::~RecordLease() {
  for (const std::int32_t token : held_) store_->release(token);
}

void RecordLease::add(std::span<const std::int32_t> tokens) {
  store_->stats_.asked += static_cast<std::int64_t>(tokens.size());
  std::vector<std::int32_t> wanted(tokens.begin(), tokens.end()), fresh;
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  std::set_difference(wanted.begin(), wanted.end(), held_.begin(), held_.end(), std::back_inserter(fresh));
  store_->collect(false);
  // What is in memory first: a record that is about to be used must not make room for another.
  std::stable_partition(fresh.begin(), fresh.end(),
                        [&](std::int32_t token) { return store_->find(token) != nullptr; });
  held_.reserve(held_.size() + fresh.size());
  const auto before = static_cast<std::ptrdiff_t>(held_.size());
  for (const std::int32_t token : fresh) {
    store_->hold(token);
    held_.push_back(token);
  }
  std::sort(held_.begin() + before, held_.end());
  std::inplace_merge(held_.begin(), held_.begin() + before, held_.end());
  store_->start_pending();
}

std::vector<RecordFailure> RecordLease::wait() {
  std::vector<RecordFailure> failures;
  bool waits = false;
  for (const std::int32_t token : held_)
    waits = waits || store_->find(token)->state == RecordStore::State::reading;
  const auto start = std::chrono::steady_clock::now();
  for (const std::int32_t token : held_) {
    store_->wait_for(token);
    const auto& entry = *store_->find(token);
    if (entry.state == RecordStore::State::failed) failures.push_back({token, entry.code, entry.message});
  }
  if (waits) {
    const auto end = std::chrono::steady_clock::now();
    store_->stats_.stall_us += std::chrono::duration_cast<std::chrono::microseconds>(end - start).count();
    if (store_->trace_ != nullptr) store_->trace_->span("waiting for rows", "table", start, end);
  }
  return failures;
}

const void* RecordLease::data(std::int32_t token) const {
  const auto* const entry = store_->find(token);
  require(entry != nullptr && entry->state == RecordStore::State::ready, "a record that was acquired");
  return entry->data;
}

}  // namespace stem
