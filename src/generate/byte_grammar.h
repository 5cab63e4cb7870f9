// Context-free grammars over bytes, and which of a tokenizer's tokens may come next under one.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "generate/generation.h"
#include "text/tokenizer.h"

namespace stem {

/// A graph of nodes, built from the end of the text to its beginning: each constructor takes the node that
/// comes next. Rules may call one another and themselves, but not before a byte is read.
class ByteGrammar {
 public:
  using Node = std::int32_t;
  using Rule = std::int32_t;
  using Bytes = std::bitset<256>;

  static constexpr Node kReturn = 0;  ///< the end of a rule

  ByteGrammar();
  /// One byte of a set, then `next`.
  Node byte(const Bytes& set, Node next);
  /// Exactly these bytes, then `next`.
  Node literal(std::string_view text, Node next);
  /// What `rule` derives, then `next`.
  Node call(Rule rule, Node next);
  /// One of several; more may be added to it, for loops.
  Node fork(std::vector<Node> alternatives = {});
  void add_alternative(Node fork, Node alternative);

  Rule add_rule();
  void define(Rule rule, Node start);

  /// Throws kUsage, naming `what`, when a rule calls itself before a byte is read, or the grammar is too
  /// large.
  void check(std::string_view what) const;

  static Bytes range(int first, int last);
  static Bytes any_of(std::string_view bytes);

 private:
  friend class GrammarMachine;
  struct NodeData {
    enum class Kind { end, byte, call, fork } kind = Kind::end;
    Bytes set;
    Rule rule = -1;
    Node next = kReturn;
    std::vector<Node> alternatives;
  };
  Node add(NodeData node);
  std::vector<char> nullable_nodes() const;

  std::vector<NodeData> nodes_;
  std::vector<Node> rules_;
};

/// The states of a grammar's pushdown automaton that a text has led to, numbered as they are met.
class GrammarMachine {
 public:
  using State = std::int32_t;
  static constexpr State kDead = -1;

  GrammarMachine(std::shared_ptr<const ByteGrammar> grammar, ByteGrammar::Rule root);
  State start() const { return 0; }
  /// The state behind one more byte, kDead if the grammar has no such text. Throws kUsage when a text needs
  /// too many states.
  State step(State state, unsigned char byte);
  bool may_end(State state) const { return states_[static_cast<std::size_t>(state)].may_end; }
  bool may_go_on(State state) const { return !states_[static_cast<std::size_t>(state)].items.empty(); }

 private:
  using Stack = std::int32_t;                        // index of an entry of stacks_; 0: empty
  using Item = std::pair<ByteGrammar::Node, Stack>;  // a byte node and where to return from its rule
  struct StackEntry {
    ByteGrammar::Node back = ByteGrammar::kReturn;
    Stack below = 0;
    std::int32_t depth = 0;
  };
  struct StateData {
    std::vector<Item> items;
    bool may_end = false;
    std::array<State, 256> next;
  };
  struct Closure;
  Stack push(ByteGrammar::Node back, Stack below);
  void close(ByteGrammar::Node node, Stack stack, Closure& closure);
  State intern(Closure closure);

  std::shared_ptr<const ByteGrammar> grammar_;
  std::vector<StackEntry> stacks_{1};
  std::map<std::pair<ByteGrammar::Node, Stack>, Stack> stack_ids_;
  std::vector<StateData> states_;
  std::map<std::pair<std::vector<Item>, bool>, State> state_ids_;
};

/// The bytes of all tokens but special ones as a tree, in the order in which a walk meets its nodes.
class TokenTrie {
 public:
  TokenTrie(const Tokenizer& tokenizer, std::int64_t vocab);

  std::int64_t vocab() const { return vocab_; }
  const std::string& bytes(std::int32_t token) const { return bytes_[static_cast<std::size_t>(token)]; }
  /// Sets the bit of every token whose bytes lead somewhere from `state`.
  void mark(GrammarMachine& machine, GrammarMachine::State state, std::span<std::uint64_t> mask) const;

 private:
  struct Node {
    unsigned char byte = 0;
    std::uint16_t depth = 0;  // 1: the first byte of a token
    std::int32_t token = -1;  // that ends here; the first of equals
    std::uint32_t after = 0;  // the node behind all that begin like this one
  };
  std::int64_t vocab_;
  std::vector<Node> nodes_;
  std::vector<std::string> bytes_;        // [V]
  std::vector<std::int32_t> same_bytes_;  // [V] the next token of the same bytes, −1
};

/// Answers that a grammar derives.
class GrammarConstraint : public TokenConstraint {
 public:
  GrammarConstraint(std::shared_ptr<const ByteGrammar> grammar, ByteGrammar::Rule root,
                    std::shared_ptr<const TokenTrie> trie, std::vector<std::int32_t> stop_tokens);
  TokenMask allowed() override;
  void accept(std::int32_t token) override;
  bool complete() const override;

 private:
  GrammarMachine machine_;
  std::shared_ptr<const TokenTrie> trie_;
  std::vector<std::int32_t> stop_tokens_;
  GrammarMachine::State state_;
  std::unordered_map<GrammarMachine::State, std::vector<std::uint64_t>> masks_;
};

}  // namespace stem
