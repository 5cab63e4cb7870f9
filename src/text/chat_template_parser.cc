#include "text/chat_template_parser.h"

#include <algorithm>

#include "text/chat_template_expression.h"

namespace stem::chat {
namespace {

class Parser : private ExpressionParser {
 public:
  Parser(std::vector<Piece> pieces, const std::string& name)
      : ExpressionParser(name), pieces_(std::move(pieces)) {}

  Body run() {
    Body body = parse_body({});
    if (at_ < pieces_.size()) refuse("{} without its beginning", shown_token());
    return body;
  }

 private:
  // statements

  // Up to a block that begins with one of `ends`, which is opened but not passed.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Nested nested(*this);
    Body body;
    for (; at_ < pieces_.size(); ++at_) {
      Piece& piece = pieces_[at_];
      if (piece.kind == Piece::Kind::kText) {
        Statement text{Statement::Kind::kText, piece.line};
        text.text = std::move(piece.text);
        body.push_back(std::move(text));
        continue;
      }
      open(piece);
      if (piece.kind == Piece::Kind::kOutput) {
        Statement output{Statement::Kind::kOutput, piece.line};
        output.expression = parse_tuple(true);
        expect_end();
        body.push_back(std::move(output));
        continue;
      }
      if (token().kind == Token::Kind::kName &&
          std::find(ends.begin(), ends.end(), token().text) != ends.end()) {
        return body;
      }
      body.push_back(parse_statement());
    }
    if (ends.size() > 0) refuse("expected {} before the end of the template", *(ends.end() - 1));
    return body;
  }

  // From the block at at_; leaves at_ at the last block of the statement.
  Statement parse_statement() {
    Statement statement{Statement::Kind::kText, token().line};
    const std::string word = token().kind == Token::Kind::kName ? token().text : "";
    if (word == "if") {
      parse_if(statement);
    } else if (word == "for") {
      parse_for(statement);
    } else if (word == "set") {
      parse_set(statement);
    } else if (word == "break" || word == "continue") {
      ++next_;
      expect_end();
      if (loops_ == 0) refuse("{} outside of a loop", word);
      statement.kind = word == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
    } else if (word == "generation") {
      ++next_;
      expect_end();
      statement.kind = Statement::Kind::kGroup;
      statement.branches.push_back(Branch{nullptr, inside({"endgeneration"})});
      expect_end();
    } else if (word.starts_with("end") || word == "else" || word == "elif") {
      refuse("{} without its beginning", word);
    } else {
      refuse("unsupported: the statement {}", shown_token());
    }
    return statement;
  }

  // The body behind the block at at_, and the word that ends it.
  Body inside(std::initializer_list<std::string_view> ends) {
    ++at_;
    Body body = parse_body(ends);
    ++next_;  // the word
    return body;
  }

  std::string_view last_word() const { return (*tokens_)[next_ - 1].text; }

  void parse_if(Statement& statement) {
    statement.kind = Statement::Kind::kIf;
    ++next_;
    for (;;) {
      ExpressionPtr condition = parse_tuple(true);
      expect_end();
      Body body = inside({"elif", "else", "endif"});
      statement.branches.push_back({std::move(condition), std::move(body)});
      if (last_word() != "elif") break;
    }
    if (last_word() == "else") {
      expect_end();
      statement.branches.push_back({nullptr, inside({"endif"})});
    }
    expect_end();
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> names;
    const bool bracket = take_operator("(");
    do {
      names.push_back(expect_name());
    } while (take_operator(","));
    if (bracket) expect_operator(")");
    return names;
  }

  void parse_for(Statement& statement) {
    statement.kind = Statement::Kind::kFor;
    ++next_;
    statement.names = parse_targets();
    if (!take_word("in")) refuse("expected in, found {}", shown_token());
    statement.expression = parse_tuple(false);
    if (take_word("if")) statement.filter = parse_expression();
    if (is_word("recursive")) refuse("unsupported: a recursive loop");
    expect_end();
    ++loops_;
    statement.branches.push_back({nullptr, inside({"else", "endfor"})});
    --loops_;
    if (last_word() == "else") {
      expect_end();
      statement.branches.push_back({nullptr, inside({"endfor"})});
    }
    expect_end();
  }

  void parse_set(Statement& statement) {
    ++next_;
    statement.names = parse_targets();
    if (statement.names.size() == 1 && take_operator(".")) statement.text = expect_name();
    if (take_operator("=")) {
      statement.kind = Statement::Kind::kSet;
      statement.expression = parse_tuple(true);
      expect_end();
      return;
    }
    if (is_operator("|")) refuse("unsupported: a filter on a set block");
    expect_end();
    if (statement.names.size() != 1) refuse("expected =, found {}", shown_token());
    statement.kind = Statement::Kind::kSetBlock;
    statement.branches.push_back({nullptr, inside({"endset"})});
    expect_end();
  }

  std::vector<Piece> pieces_;
  std::size_t at_ = 0;  // into pieces_
  int loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view source, const std::string& name) {
  return Parser(cut_template(source, name), name).run();
}

}  // namespace stem::chat
