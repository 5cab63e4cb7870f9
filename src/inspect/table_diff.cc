#include "inspect/table_diff.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <unordered_map>

#include "inspect/geometry.h"

namespace stem {
namespace {

std::string_view bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

bool same_form(const Table& a, const Table& b) {
  return a.dtype() == b.dtype() && a.stored() == b.stored();
}

/// Whether `bytes` at `a` and `b` are the same, where both tables hold them in one form.
bool same_bytes(const Table& a, const Table& b, const void* at_a, const void* at_b, std::int64_t bytes) {
  return at_a != nullptr && at_b != nullptr && same_form(a, b) &&
         std::memcmp(at_a, at_b, static_cast<std::size_t>(bytes)) == 0;
}

/// The rows of one table at a time, as f32.
struct Reader {
  const Table& table;
  std::vector<float> values;

  explicit Reader(const Table& from) : table(from), values(static_cast<std::size_t>(from.shape().width)) {}
  const std::vector<float>& operator()(std::int64_t token, std::int64_t layer) {
    table.read_row(token, layer, values);
    return values;
  }
};

double largest_difference(const std::vector<float>& u, const std::vector<float>& v) {
  double largest = 0;
  for (std::size_t i = 0; i < u.size(); ++i) {
    if (u[i] == v[i]) continue;
    const double difference = std::abs(static_cast<double>(u[i]) - static_cast<double>(v[i]));
    largest =
        std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

/// Finds partners among the differing rows alone: both ends of an exchange differ.
void find_exchanges(const Table& a, const Table& b, std::vector<RowDifference>& differences) {
  using Key = std::pair<std::int32_t, std::size_t>;  // layer, hash of a's row
  const auto hash_key = [](const Key& key) { return key.second * 31 + static_cast<std::size_t>(key.first); };
  std::unordered_map<Key, std::vector<std::size_t>, decltype(hash_key)> by_row(differences.size(), hash_key);
  const std::hash<std::string_view> hash;
  Reader row_a(a), row_b(b), partner_a(a), partner_b(b);
  for (std::size_t i = 0; i < differences.size(); ++i) {
    const RowDifference& d = differences[i];
    auto& same = by_row[{d.layer, hash(bytes_of(row_a(d.token, d.layer)))}];
    if (same.size() < 16) same.push_back(i);  // a table of equal rows must not make this quadratic
  }
  for (RowDifference& d : differences) {
    const auto found = by_row.find({d.layer, hash(bytes_of(row_b(d.token, d.layer)))});
    if (found == by_row.end()) continue;
    row_a(d.token, d.layer);
    for (const std::size_t i : found->second) {
      const RowDifference& other = differences[i];
      if (other.token == d.token) continue;
      if (bytes_of(partner_a(other.token, d.layer)) == bytes_of(row_b.values) &&
          bytes_of(partner_b(other.token, d.layer)) == bytes_of(row_a.values)) {
        d.exchanged_with = other.token;
        break;
      }
    }
  }
}

}  // namespace

std::vector<RowDifference> diff_tables(const Table& a, const Table& b, std::string_view name_a,
                                       std::string_view name_b) {
  const TableShape &sa = a.shape(), &sb = b.shape();
  for (const auto& [shape, name] : {std::pair(sa, name_a), std::pair(sb, name_b)}) {
    if (shape.size() == 0)
      fail(ErrorCode::kMismatch, "{}: expected a model with a table to compare, found none", name);
  }
  if (!(sa == sb)) {
    fail(ErrorCode::kMismatch,
         "{} has {} tokens x {} STEM layers x {} values, {} has {} x {} x {}: only tables of one shape can "
         "be compared",
         name_a, sa.vocab, sa.layers, sa.width, name_b, sb.vocab, sb.layers, sb.width);
  }
  std::vector<RowDifference> differences;
  Reader row_a(a), row_b(b);
  for (std::int64_t token = 0; token < sa.vocab; ++token) {
    if (same_bytes(a, b, a.record(token), b.record(token), a.record_bytes())) continue;
    for (std::int64_t layer = 0; layer < sa.layers; ++layer) {
      if (same_bytes(a, b, a.row(token, layer).data, b.row(token, layer).data, a.row_bytes())) continue;
      const auto &u = row_a(token, layer), &v = row_b(token, layer);
      const bool bitwise = same_form(a, b) && a.present() && b.present();
      if (!bitwise && u == v) continue;
      differences.push_back({static_cast<std::int32_t>(token), static_cast<std::int32_t>(layer),
                             largest_difference(u, v), cosine(u, v), std::nullopt});
    }
  }
  find_exchanges(a, b, differences);
  a.verify();
  b.verify();
  return differences;
}

}  // namespace stem
