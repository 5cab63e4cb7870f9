// A hash table from pairs of token ids to small values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace stem {

/// Two neighbouring token ids as one key; ordered like (left, right).
inline std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

/// Open addressing with linear probing, never more than half full; no removal. Pointers to values are valid
/// until the next insertion.
template <class Value>
class PairMap {
 public:
  explicit PairMap(std::size_t expected = 0) {
    std::size_t capacity = 16;
    while (capacity < 2 * expected) capacity *= 2;
    slots_.resize(capacity);
  }
  std::size_t size() const { return size_; }

  /// The value at `key`, or null.
  const Value* find(std::uint64_t key) const {
    const Slot& slot = slots_[probe(key)];
    return slot.key == kEmpty ? nullptr : &slot.value;
  }
  Value* find(std::uint64_t key) { return const_cast<Value*>(std::as_const(*this).find(key)); }

  /// The value at `key`, inserted as Value() if absent.
  Value& operator[](std::uint64_t key) {
    std::size_t i = probe(key);
    if (slots_[i].key == kEmpty) {
      if (2 * (size_ + 1) > slots_.size()) {
        grow();
        i = probe(key);
      }
      slots_[i].key = key;
      ++size_;
    }
    return slots_[i].value;
  }

  /// Calls visit(key, value) for every entry, in no particular order.
  template <class Visit>
  void for_each(Visit visit) {
    for (Slot& slot : slots_) {
      if (slot.key != kEmpty) visit(slot.key, slot.value);
    }
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no pair: ids are not negative
  struct Slot {
    std::uint64_t key = kEmpty;
    Value value{};
  };

  std::size_t probe(std::uint64_t key) const {
    std::uint64_t hash = key * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
    std::size_t i = static_cast<std::size_t>(hash) & (slots_.size() - 1);
    while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.key != kEmpty) slots_[probe(slot.key)] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace stem
