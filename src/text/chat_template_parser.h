// The syntax of chat templates; for the .cc files of this room.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template_value.h"

namespace stem::chat {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // text
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, …
    kMember,       // parts[0] . text
    kItem,         // parts[0] [ parts[1] ]
    kSlice,        // parts[0] [ parts[1] : parts[2] : parts[3] ], the last three may be null
    kCall,         // parts[0] ( parts[1], … ), the last ones by `names`
    kFilter,       // parts[0] | text ( parts[1], … ), the last ones by `names`
    kTest,         // parts[0] is text ( parts[1], … )
    kUnary,        // text: not - +
    kBinary,       // text: + - * / // % ~
    kCompare,      // parts[0] names[0] parts[1] names[1] parts[2] …
    kAnd,          // parts[0], parts[1]
    kOr,           // parts[0], parts[1]
    kConditional,  // parts[0] if parts[1] else parts[2], which may be null
  };
  Kind kind;
  int line;
  std::string text;
  Value value{};
  std::vector<ExpressionPtr> parts{};
  std::vector<std::string> names{};
  int depth = 1;
};

struct Statement;
using Body = std::vector<Statement>;

struct Branch {
  ExpressionPtr condition;  // null: else
  Body body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // expression
    kIf,        // branches
    kFor,       // names in expression [if filter]: branches[0] [else: branches[1]]
    kSet,       // names [. text] = expression
    kSetBlock,  // names [. text] = branches[0]
    kGroup,     // branches[0]
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string text{};
  std::vector<std::string> names{};
  ExpressionPtr expression{}, filter{};
  std::vector<Branch> branches{};
};

/// Error (kFormat) `name: line N: …`.
Body parse_template(std::string_view source, const std::string& name);

// The lexer's side.
struct Token {
  enum class Kind { kName, kString, kInteger, kFloat, kOperator, kEnd };
  Kind kind;
  std::string text;  // of a string: what it stands for
  int line;
};
struct Piece {
  enum class Kind { kText, kOutput, kBlock };
  Kind kind;
  int line;
  std::string text;           // of kText
  std::vector<Token> tokens;  // of the others, with a kEnd behind them
};
std::vector<Piece> cut_template(std::string_view source, const std::string& name);

}  // namespace stem::chat
