// The expressions of chat templates, read from the tokens of a tag; for chat_template_parser.cc.
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "text/chat_template_parser.h"

namespace stem::chat {

class ExpressionParser {
 protected:
  using Kind = Expression::Kind;
  static constexpr int kMaxNesting = 64;  // of expressions and of statements, as written
  static constexpr int kMaxDepth = 256;   // of an expression's tree, which also grows by chains

  explicit ExpressionParser(const std::string& name) : name_(name) {}

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    const int line = tokens_ != nullptr ? token().line : 1;
    fail(ErrorCode::kFormat, "{}: line {}: {}", name_, line,
         fmt::format(format, std::forward<Args>(args)...));
  }

  // Counts what is open around what is being read.
  class Nested {
   public:
    explicit Nested(ExpressionParser& parser) : parser_(parser) {
      if (++parser.nesting_ > kMaxNesting) parser.refuse("nested deeper than {}", kMaxNesting);
    }
    ~Nested() { --parser_.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // tokens

  const Token& token() const { return (*tokens_)[next_]; }
  std::string shown_token() const {
    return token().kind == Token::Kind::kEnd ? "the end of the tag" : shown(token().text);
  }
  bool is(Token::Kind kind, std::string_view text) const {
    return token().kind == kind && token().text == text;
  }
  bool is_operator(std::string_view text) const { return is(Token::Kind::kOperator, text); }
  bool is_word(std::string_view text) const { return is(Token::Kind::kName, text); }
  bool take_operator(std::string_view text) {
    const bool found = is_operator(text);
    next_ += found ? 1 : 0;
    return found;
  }
  bool take_word(std::string_view text) {
    const bool found = is_word(text);
    next_ += found ? 1 : 0;
    return found;
  }
  void expect_operator(std::string_view text) {
    if (!take_operator(text)) refuse("expected {}, found {}", text, shown_token());
  }
  std::string expect_name() {
    if (token().kind != Token::Kind::kName) refuse("expected a name, found {}", shown_token());
    return (*tokens_)[next_++].text;
  }
  void expect_end() {
    if (token().kind != Token::Kind::kEnd) refuse("expected the end of the tag, found {}", shown_token());
  }
  void open(const Piece& piece) {
    tokens_ = &piece.tokens;
    next_ = 0;
  }

  // One expression, or a tuple without brackets.
  ExpressionPtr parse_tuple(bool conditional) {
    const auto element = [&] { return conditional ? parse_expression() : parse_or(); };
    ExpressionPtr first = element();
    if (!is_operator(",")) return first;
    std::vector<ExpressionPtr> parts = parts_of(std::move(first));
    while (take_operator(",")) {
      if (token().kind == Token::Kind::kEnd || is_operator(")")) break;
      parts.push_back(element());
    }
    return make(Kind::kTuple, std::move(parts));
  }

  ExpressionPtr parse_expression() {
    const Nested nested(*this);
    ExpressionPtr value = parse_or();
    while (take_word("if")) {
      ExpressionPtr condition = parse_or();
      ExpressionPtr otherwise = take_word("else") ? parse_expression() : nullptr;
      std::vector<ExpressionPtr> parts = parts_of(std::move(value), std::move(condition));
      parts.push_back(std::move(otherwise));
      value = make(Kind::kConditional, std::move(parts));
    }
    return value;
  }

 private:
  // expressions, from the weakest binding to the strongest

  ExpressionPtr make(Kind kind, std::vector<ExpressionPtr> parts, std::string text = {}) const {
    auto expression = std::make_unique<Expression>(Expression{kind, token().line, std::move(text)});
    for (const ExpressionPtr& part : parts) {
      if (part) expression->depth = std::max(expression->depth, part->depth + 1);
    }
    if (expression->depth > kMaxDepth) refuse("an expression deeper than {}", kMaxDepth);
    expression->parts = std::move(parts);
    return expression;
  }
  static std::vector<ExpressionPtr> parts_of(ExpressionPtr a, ExpressionPtr b = nullptr) {
    std::vector<ExpressionPtr> parts;
    parts.push_back(std::move(a));
    if (b) parts.push_back(std::move(b));
    return parts;
  }

  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (take_word("or")) left = make(Kind::kOr, parts_of(std::move(left), parse_and()));
    return left;
  }

  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (take_word("and")) left = make(Kind::kAnd, parts_of(std::move(left), parse_not()));
    return left;
  }

  ExpressionPtr parse_not() {
    const Nested nested(*this);
    if (take_word("not")) return make(Kind::kUnary, parts_of(parse_not()), "not");
    return parse_compare();
  }

  ExpressionPtr parse_compare() {
    std::vector<ExpressionPtr> parts = parts_of(parse_sum());
    std::vector<std::string> names;
    for (;;) {
      std::string op;
      for (const char* known : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && take_operator(known)) op = known;
      }
      if (op.empty() && take_word("in")) op = "in";
      if (op.empty() && is_word("not") && (*tokens_)[next_ + 1].kind == Token::Kind::kName &&
          (*tokens_)[next_ + 1].text == "in") {
        next_ += 2;
        op = "not in";
      }
      if (op.empty()) break;
      names.push_back(op);
      parts.push_back(parse_sum());
    }
    if (names.empty()) return std::move(parts[0]);
    ExpressionPtr compare = make(Kind::kCompare, std::move(parts));
    compare->names = std::move(names);
    return compare;
  }

  ExpressionPtr parse_sum() {
    ExpressionPtr left = parse_concatenation();
    while (is_operator("+") || is_operator("-")) {
      const std::string op = (*tokens_)[next_++].text;
      left = make(Kind::kBinary, parts_of(std::move(left), parse_concatenation()), op);
    }
    return left;
  }

  ExpressionPtr parse_concatenation() {
    ExpressionPtr left = parse_product();
    while (take_operator("~")) left = make(Kind::kBinary, parts_of(std::move(left), parse_product()), "~");
    return left;
  }

  ExpressionPtr parse_product() {
    ExpressionPtr left = parse_unary(true);
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
      const std::string op = (*tokens_)[next_++].text;
      left = make(Kind::kBinary, parts_of(std::move(left), parse_unary(true)), op);
    }
    if (is_operator("**")) refuse("unsupported: the operator **");
    return left;
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const Nested nested(*this);
    ExpressionPtr value;
    if (is_operator("-") || is_operator("+")) {
      const std::string op = (*tokens_)[next_++].text;
      value = make(Kind::kUnary, parts_of(parse_unary(false)), op);
    } else {
      value = parse_postfix(parse_primary());
    }
    return with_filters ? parse_filters(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_primary() {
    const Token current = token();
    switch (current.kind) {
      case Token::Kind::kName:
        ++next_;
        return parse_word(current.text);
      case Token::Kind::kString: {
        std::string text;
        while (token().kind == Token::Kind::kString) text += (*tokens_)[next_++].text;
        return literal(Value::text(std::move(text)));
      }
      case Token::Kind::kInteger: {
        std::int64_t number = 0;
        const char* end = current.text.data() + current.text.size();
        if (std::from_chars(current.text.data(), end, number).ec != std::errc()) {
          refuse("a number beyond 64 bits: {}", shown(current.text));
        }
        ++next_;
        return literal(Value::integer(number));
      }
      case Token::Kind::kFloat: {
        double number = 0;
        const char* end = current.text.data() + current.text.size();
        if (std::from_chars(current.text.data(), end, number).ec != std::errc()) {
          refuse("not a number: {}", shown(current.text));
        }
        ++next_;
        return literal(Value{number});
      }
      case Token::Kind::kOperator:
        if (take_operator("(")) {
          if (take_operator(")")) return make(Kind::kTuple, {});
          ExpressionPtr inner = parse_tuple(true);
          expect_operator(")");
          return inner;
        }
        if (take_operator("[")) return make(Kind::kList, parse_list("]"));
        if (take_operator("{")) return parse_dict();
        break;
      case Token::Kind::kEnd:
        break;
    }
    refuse("expected an expression, found {}", shown_token());
  }

  ExpressionPtr literal(Value value) const {
    ExpressionPtr expression = make(Kind::kLiteral, {});
    expression->value = std::move(value);
    return expression;
  }

  ExpressionPtr parse_word(const std::string& word) {
    if (word == "true" || word == "True") return literal(Value::boolean(true));
    if (word == "false" || word == "False") return literal(Value::boolean(false));
    if (word == "none" || word == "None") return literal(Value::none());
    for (const char* reserved : {"and", "or", "not", "in", "is", "if", "else", "for"}) {
      if (word == reserved) refuse("expected an expression, found \"{}\"", word);
    }
    return make(Kind::kName, {}, word);
  }

  std::vector<ExpressionPtr> parse_list(std::string_view end) {
    std::vector<ExpressionPtr> parts;
    while (!take_operator(end)) {
      if (!parts.empty()) {
        expect_operator(",");
        if (take_operator(end)) break;
      }
      parts.push_back(parse_expression());
    }
    return parts;
  }

  ExpressionPtr parse_dict() {
    std::vector<ExpressionPtr> parts;
    while (!take_operator("}")) {
      if (!parts.empty()) {
        expect_operator(",");
        if (take_operator("}")) break;
      }
      parts.push_back(parse_expression());
      expect_operator(":");
      parts.push_back(parse_expression());
    }
    return make(Kind::kDict, std::move(parts));
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    for (;;) {
      if (take_operator(".")) {
        if (token().kind == Token::Kind::kInteger) {
          ExpressionPtr index = parse_primary();
          value = make(Kind::kItem, parts_of(std::move(value), std::move(index)));
        } else {
          const std::string member = expect_name();
          value = make(Kind::kMember, parts_of(std::move(value)), member);
        }
      } else if (take_operator("[")) {
        value = parse_subscript(std::move(value));
      } else if (is_operator("(")) {
        value = parse_call(make(Kind::kCall, parts_of(std::move(value))));
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr value) {
    std::vector<ExpressionPtr> parts = parts_of(std::move(value));
    bool slice = false;
    do {
      slice |= parts.size() > 1;
      const bool left_out = is_operator(":") || is_operator("]");
      parts.push_back(left_out ? nullptr : parse_expression());
    } while (parts.size() < 4 && take_operator(":"));
    expect_operator("]");
    if (!slice && !parts[1]) refuse("expected an expression, found \"]\"");
    if (slice) parts.resize(4);
    return make(slice ? Kind::kSlice : Kind::kItem, std::move(parts));
  }

  // The arguments of a call, a filter or a test, if there are brackets.
  ExpressionPtr parse_call(ExpressionPtr call) {
    if (!take_operator("(")) return call;
    std::vector<ExpressionPtr> parts = std::move(call->parts);
    const std::size_t first = parts.size();
    std::vector<std::string> names;
    while (!take_operator(")")) {
      if (parts.size() > first) {
        expect_operator(",");
        if (take_operator(")")) break;
      }
      if (is_operator("*") || is_operator("**")) refuse("unsupported: * in a call");
      if (token().kind == Token::Kind::kName && (*tokens_)[next_ + 1].kind == Token::Kind::kOperator &&
          (*tokens_)[next_ + 1].text == "=") {
        names.push_back(expect_name());
        ++next_;
      } else if (!names.empty()) {
        refuse("an argument without a name after one with a name");
      }
      parts.push_back(parse_expression());
    }
    ExpressionPtr whole = make(call->kind, std::move(parts), call->text);
    whole->line = call->line;
    whole->names = std::move(names);
    return whole;
  }

  ExpressionPtr parse_filters(ExpressionPtr value) {
    for (;;) {
      if (take_operator("|")) {
        const std::string name = expect_name();
        value = parse_call(make(Kind::kFilter, parts_of(std::move(value)), name));
      } else if (take_word("is")) {
        const bool negated = take_word("not");
        const std::string name = expect_name();
        value = parse_test(make(Kind::kTest, parts_of(std::move(value)), name));
        if (negated) value = make(Kind::kUnary, parts_of(std::move(value)), "not");
      } else if (is_operator("(")) {
        value = parse_call(make(Kind::kCall, parts_of(std::move(value))));
      } else {
        return value;
      }
    }
  }

  // A test may take one argument without brackets.
  ExpressionPtr parse_test(ExpressionPtr test) {
    if (is_operator("(")) return parse_call(std::move(test));
    const Token::Kind kind = token().kind;
    bool argument = kind == Token::Kind::kString || kind == Token::Kind::kInteger ||
                    kind == Token::Kind::kFloat || is_operator("[") || is_operator("{");
    if (kind == Token::Kind::kName) {
      argument = true;
      for (const char* word : {"else", "or", "and", "is", "if", "in", "not", "recursive"}) {
        argument &= !is_word(word);
      }
    }
    if (!argument) return test;
    std::vector<ExpressionPtr> parts = std::move(test->parts);
    parts.push_back(parse_postfix(parse_primary()));
    return make(Kind::kTest, std::move(parts), test->text);
  }

  const std::string& name_;

 protected:
  const std::vector<Token>* tokens_ = nullptr;  // of the tag being read
  std::size_t next_ = 0;                        // into *tokens_

 private:
  int nesting_ = 0;
};

}  // namespace stem::chat
