#include "generate/byte_grammar.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::size_t kMaxNodes = 400'000, kMaxStates = 50'000, kMaxMasks = 256;
constexpr std::int32_t kMaxStackDepth = 96;  // nested values deeper than this are not made

}  // namespace

ByteGrammar::ByteGrammar() {
  nodes_.emplace_back();  // kReturn
}

ByteGrammar::Node ByteGrammar::add(NodeData node) {
  if (nodes_.size() >= kMaxNodes)
    fail(ErrorCode::kUsage,
         "the schema: expected one of fewer states: too many properties or too long bounds");
  nodes_.push_back(std::move(node));
  return static_cast<Node>(nodes_.size()) - 1;
}

ByteGrammar::Node ByteGrammar::byte(const Bytes& set, Node next) {
  NodeData node;
  node.kind = NodeData::Kind::byte;
  node.set = set;
  node.next = next;
  return add(std::move(node));
}

ByteGrammar::Node ByteGrammar::literal(std::string_view text, Node next) {
  for (std::size_t i = text.size(); i-- > 0;) next = byte(any_of(text.substr(i, 1)), next);
  return next;
}

ByteGrammar::Node ByteGrammar::call(Rule rule, Node next) {
  NodeData node;
  node.kind = NodeData::Kind::call;
  node.rule = rule;
  node.next = next;
  return add(std::move(node));
}

ByteGrammar::Node ByteGrammar::fork(std::vector<Node> alternatives) {
  NodeData node;
  node.kind = NodeData::Kind::fork;
  node.alternatives = std::move(alternatives);
  return add(std::move(node));
}

void ByteGrammar::add_alternative(Node fork, Node alternative) {
  NodeData& node = nodes_[static_cast<std::size_t>(fork)];
  require(node.kind == NodeData::Kind::fork, "alternatives belong to forks");
  node.alternatives.push_back(alternative);
}

ByteGrammar::Rule ByteGrammar::add_rule() {
  rules_.push_back(kReturn);
  return static_cast<Rule>(rules_.size()) - 1;
}

void ByteGrammar::define(Rule rule, Node start) {
  rules_[static_cast<std::size_t>(rule)] = start;
}

ByteGrammar::Bytes ByteGrammar::range(int first, int last) {
  Bytes set;
  for (int b = first; b <= last; ++b) set.set(static_cast<std::size_t>(b));
  return set;
}

ByteGrammar::Bytes ByteGrammar::any_of(std::string_view bytes) {
  Bytes set;
  for (const char c : bytes) set.set(static_cast<unsigned char>(c));
  return set;
}

// Which nodes lead to the end of their rule without a byte: what becomes so makes others so, each once.
std::vector<char> ByteGrammar::nullable_nodes() const {
  const auto start_of = [&](const NodeData& n) { return rules_[static_cast<std::size_t>(n.rule)]; };
  std::vector<std::vector<Node>> users(nodes_.size());
  std::vector<Node> open;
  std::vector<char> nullable(nodes_.size(), 0);
  for (Node i = 0; i < static_cast<Node>(nodes_.size()); ++i) {
    const NodeData& n = nodes_[static_cast<std::size_t>(i)];
    if (n.kind == NodeData::Kind::call) {
      users[static_cast<std::size_t>(start_of(n))].push_back(i);
      users[static_cast<std::size_t>(n.next)].push_back(i);
    }
    for (const Node a : n.alternatives) users[static_cast<std::size_t>(a)].push_back(i);
    if (n.kind == NodeData::Kind::end) open.push_back(i);
  }
  for (const Node i : open) nullable[static_cast<std::size_t>(i)] = 1;
  while (!open.empty()) {
    const Node done = open.back();
    open.pop_back();
    for (const Node i : users[static_cast<std::size_t>(done)]) {
      const NodeData& n = nodes_[static_cast<std::size_t>(i)];
      const bool is =
          n.kind == NodeData::Kind::fork || (nullable[static_cast<std::size_t>(start_of(n))] != 0 &&
                                             nullable[static_cast<std::size_t>(n.next)] != 0);
      if (is && std::exchange(nullable[static_cast<std::size_t>(i)], 1) == 0) open.push_back(i);
    }
  }
  return nullable;
}

// Depth-first over what can be reached before a byte is read, every node once.
void ByteGrammar::check(std::string_view what) const {
  const std::vector<char> nullable = nullable_nodes();
  const auto next_of = [&](Node node, std::size_t i) -> Node {  // −1: no more
    const NodeData& n = nodes_[static_cast<std::size_t>(node)];
    if (n.kind == NodeData::Kind::fork) return i < n.alternatives.size() ? n.alternatives[i] : -1;
    if (n.kind != NodeData::Kind::call || i > 1) return -1;
    const Node start = rules_[static_cast<std::size_t>(n.rule)];
    if (i == 0) return start;
    return nullable[static_cast<std::size_t>(start)] != 0 ? n.next : -1;
  };
  enum : char { kFresh, kOpen, kDone };
  std::vector<char> state(nodes_.size(), kFresh);
  std::vector<std::pair<Node, std::size_t>> path;  // a node, and how many of its successors were seen
  const auto enter = [&](Node node) {
    char& s = state[static_cast<std::size_t>(node)];
    if (s == kOpen) fail(ErrorCode::kUsage, "{}: a $ref leads back to itself with nothing in between", what);
    if (s == kFresh) path.emplace_back(node, 0);
    if (s == kFresh) s = kOpen;
  };
  for (const Node root : rules_) {
    enter(root);
    while (!path.empty()) {
      const Node node = path.back().first, next = next_of(node, path.back().second++);
      if (next >= 0) {
        enter(next);
      } else {
        state[static_cast<std::size_t>(node)] = kDone;
        path.pop_back();
      }
    }
  }
}

struct GrammarMachine::Closure {
  std::vector<Item> items;
  bool may_end = false;
  std::set<Item> seen;
};

GrammarMachine::GrammarMachine(std::shared_ptr<const ByteGrammar> grammar, ByteGrammar::Rule root)
    : grammar_(std::move(grammar)) {
  Closure closure;
  close(grammar_->rules_[static_cast<std::size_t>(root)], 0, closure);
  intern(std::move(closure));
}

GrammarMachine::Stack GrammarMachine::push(ByteGrammar::Node back, Stack below) {
  if (back == ByteGrammar::kReturn) return below;  // nothing to do there but return
  const auto [it, fresh] = stack_ids_.try_emplace({back, below}, static_cast<Stack>(stacks_.size()));
  if (fresh) stacks_.push_back({back, below, stacks_[static_cast<std::size_t>(below)].depth + 1});
  return it->second;
}

// All byte nodes that `node` leads to without a byte.
void GrammarMachine::close(ByteGrammar::Node node, Stack stack, Closure& closure) {
  std::vector<Item> open{{node, stack}};
  while (!open.empty()) {
    const Item item = open.back();
    open.pop_back();
    if (!closure.seen.insert(item).second) continue;
    const auto& n = grammar_->nodes_[static_cast<std::size_t>(item.first)];
    using Kind = ByteGrammar::NodeData::Kind;
    switch (n.kind) {
      case Kind::end:
        if (item.second == 0) {
          closure.may_end = true;
        } else {
          const StackEntry& top = stacks_[static_cast<std::size_t>(item.second)];
          open.emplace_back(top.back, top.below);
        }
        break;
      case Kind::byte:
        closure.items.push_back(item);
        break;
      case Kind::call: {
        const Stack deeper = push(n.next, item.second);
        if (stacks_[static_cast<std::size_t>(deeper)].depth <= kMaxStackDepth)
          open.emplace_back(grammar_->rules_[static_cast<std::size_t>(n.rule)], deeper);
        break;
      }
      case Kind::fork:
        for (const ByteGrammar::Node a : n.alternatives) open.emplace_back(a, item.second);
        break;
    }
  }
}

GrammarMachine::State GrammarMachine::intern(Closure closure) {
  std::sort(closure.items.begin(), closure.items.end());
  if (closure.items.empty() && !closure.may_end) return kDead;
  const auto [it, fresh] =
      state_ids_.try_emplace({closure.items, closure.may_end}, static_cast<State>(states_.size()));
  if (fresh) {
    if (states_.size() >= kMaxStates)
      fail(ErrorCode::kUsage, "the schema: this answer needs more states than are kept: shorter bounds help");
    StateData data;
    data.items = std::move(closure.items);
    data.may_end = closure.may_end;
    data.next.fill(-2);
    states_.push_back(std::move(data));
  }
  return it->second;
}

GrammarMachine::State GrammarMachine::step(State state, unsigned char byte) {
  const State known = states_[static_cast<std::size_t>(state)].next[byte];
  if (known != -2) return known;
  Closure closure;
  const std::vector<Item> items = states_[static_cast<std::size_t>(state)].items;
  for (const auto& [node, stack] : items) {
    const auto& n = grammar_->nodes_[static_cast<std::size_t>(node)];
    if (n.set.test(byte)) close(n.next, stack, closure);
  }
  const State next = intern(std::move(closure));
  states_[static_cast<std::size_t>(state)].next[byte] = next;
  return next;
}

TokenTrie::TokenTrie(const Tokenizer& tokenizer, std::int64_t vocab)
    : vocab_(vocab),
      bytes_(static_cast<std::size_t>(vocab)),
      same_bytes_(static_cast<std::size_t>(vocab), -1) {
  std::vector<std::int32_t> order;
  for (std::int32_t t = 0; t < vocab; ++t) {
    if (!tokenizer.has_token(t) || tokenizer.is_special(t)) continue;
    std::string& bytes = bytes_[static_cast<std::size_t>(t)];
    bytes = tokenizer.token_bytes(t);
    if (!bytes.empty() && bytes.size() < 4096) order.push_back(t);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return bytes(a) < bytes(b); });
  std::vector<std::uint32_t> path;  // nodes from the root to the last token
  std::string_view last;
  for (const std::int32_t t : order) {
    const std::string_view now = bytes(t);
    const auto common = static_cast<std::size_t>(
        std::mismatch(last.begin(), last.end(), now.begin(), now.end()).first - last.begin());
    while (path.size() > common) {
      nodes_[path.back()].after = static_cast<std::uint32_t>(nodes_.size());
      path.pop_back();
    }
    for (std::size_t d = common; d < now.size(); ++d) {
      path.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({static_cast<unsigned char>(now[d]), static_cast<std::uint16_t>(d + 1), -1, 0});
    }
    Node& end = nodes_[path.back()];
    same_bytes_[static_cast<std::size_t>(t)] = end.token;
    end.token = t;
    last = now;
  }
  for (const std::uint32_t at : path) nodes_[at].after = static_cast<std::uint32_t>(nodes_.size());
}

void TokenTrie::mark(GrammarMachine& machine, GrammarMachine::State state,
                     std::span<std::uint64_t> mask) const {
  std::vector<GrammarMachine::State> at{state};  // by depth
  for (std::uint32_t i = 0; i < nodes_.size();) {
    const Node& node = nodes_[i];
    at.resize(node.depth);
    const GrammarMachine::State next = machine.step(at.back(), node.byte);
    if (next == GrammarMachine::kDead) {
      i = node.after;
      continue;
    }
    for (std::int32_t t = node.token; t >= 0; t = same_bytes_[static_cast<std::size_t>(t)])
      mask[static_cast<std::size_t>(t) / 64] |= std::uint64_t{1} << (t % 64);
    at.push_back(next);
    ++i;
  }
}

GrammarConstraint::GrammarConstraint(std::shared_ptr<const ByteGrammar> grammar, ByteGrammar::Rule root,
                                     std::shared_ptr<const TokenTrie> trie,
                                     std::vector<std::int32_t> stop_tokens)
    : machine_(std::move(grammar), root),
      trie_(std::move(trie)),
      stop_tokens_(std::move(stop_tokens)),
      state_(machine_.start()) {}

TokenMask GrammarConstraint::allowed() {
  if (const auto it = masks_.find(state_); it != masks_.end()) return it->second;
  if (masks_.size() >= kMaxMasks) masks_.clear();
  std::vector<std::uint64_t> mask((static_cast<std::size_t>(trie_->vocab()) + 63) / 64, 0);
  trie_->mark(machine_, state_, mask);
  if (machine_.may_end(state_)) {
    for (const std::int32_t t : stop_tokens_)
      mask[static_cast<std::size_t>(t) / 64] |= std::uint64_t{1} << (t % 64);
  }
  if (std::all_of(mask.begin(), mask.end(), [](std::uint64_t w) { return w == 0; }))
    fail(ErrorCode::kMismatch, "the schema: the model's vocabulary has no token that goes on here");
  return masks_.emplace(state_, std::move(mask)).first->second;
}

void GrammarConstraint::accept(std::int32_t token) {
  for (const char c : trie_->bytes(token)) {
    state_ = machine_.step(state_, static_cast<unsigned char>(c));
    require(state_ != GrammarMachine::kDead, "a token that the mask allows");
  }
}

bool GrammarConstraint::complete() const {
  return machine_.may_end(state_) && !machine_.may_go_on(state_);
}

}  // namespace stem
