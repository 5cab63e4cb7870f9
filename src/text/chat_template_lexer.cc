#include <array>

#include "core/error.h"
#include "text/chat_template_parser.h"
#include "text/utf8.h"

namespace stem::chat {
namespace {

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f';
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : name_(name) {
    // Jinja reads every line end as "\n" and leaves out one at the end.
    source_.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] != '\r') {
        source_ += source[i];
      } else if (i + 1 == source.size() || source[i + 1] != '\n') {
        source_ += '\n';
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  std::vector<Piece> run() {
    while (at_ < source_.size()) {
      const std::size_t open = find_open();
      std::string_view text = std::string_view(source_).substr(at_, open - at_);
      const int line = line_;
      if (open == source_.size()) {
        add_text(text, line);
        break;
      }
      const char kind = source_[open + 1];
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      const std::string_view kept = sign == '-'                  ? strip(text, nullptr, false, true)
                                    : sign == '+' || kind == '{' ? text
                                                                 : without_indent(text);
      add_text(kept, line);
      advance(open + 2 + (sign == '-' || (sign == '+' && kind != '{') ? 1 : 0));
      if (kind == '#') {
        skip_comment();
      } else {
        read_tag(kind == '{');
      }
    }
    return std::move(pieces_);
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(int line, fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kFormat, "{}: line {}: {}", name_, line,
         fmt::format(format, std::forward<Args>(args)...));
  }

  std::size_t find_open() const {
    for (std::size_t i = at_; (i = source_.find('{', i)) != std::string::npos; ++i) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return source_.size();
  }

  void add_text(std::string_view text, int line) {
    if (!text.empty()) pieces_.push_back({Piece::Kind::kText, line, std::string(text), {}});
  }

  // lstrip_blocks: white space alone on a line before a tag.
  std::string_view without_indent(std::string_view text) const {
    const std::size_t line_end = text.rfind('\n');
    const std::size_t begin = line_end == std::string_view::npos ? 0 : line_end + 1;
    if (begin == 0 && !line_starting_) return text;
    return strip(text.substr(begin), nullptr, true, false).empty() ? text.substr(0, begin) : text;
  }

  void advance(std::size_t to) {
    for (; at_ < to; ++at_) line_ += source_[at_] == '\n';
  }

  bool looking_at(std::string_view text) const {
    return std::string_view(source_).substr(at_).starts_with(text);
  }

  // Steps over the end of a tag if there is one here, and over the white space that goes with it.
  bool take_end(std::string_view end) {
    const bool variable = end == "}}";
    const std::size_t begin = at_;
    if (looking_at("-" + std::string(end))) {
      const std::string_view rest = std::string_view(source_).substr(at_ + 1 + end.size());
      advance(source_.size() - strip(rest, nullptr, true, false).size());
    } else if (!variable && looking_at("+" + std::string(end))) {
      advance(at_ + 1 + end.size());
    } else if (looking_at(end)) {
      advance(at_ + end.size());
      if (!variable && looking_at("\n")) advance(at_ + 1);  // trim_blocks
    } else {
      return false;
    }
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
    return true;
  }

  void skip_comment() {
    const int line = line_;
    for (;;) {
      const std::size_t close = source_.find("#}", at_);
      if (close == std::string::npos) refuse(line, "a comment without its end #}}");
      const bool sign = close > at_ && (source_[close - 1] == '-' || source_[close - 1] == '+');
      advance(close - (sign ? 1 : 0));
      if (take_end("#}")) return;
    }
  }

  void read_tag(bool variable) {
    Piece piece{variable ? Piece::Kind::kOutput : Piece::Kind::kBlock, line_, {}, {}};
    const std::string_view end = variable ? "}}" : "%}";
    std::string open;  // the brackets that wait for their ends
    for (;;) {
      while (at_ < source_.size() && is_blank(source_[at_])) advance(at_ + 1);
      if (at_ == source_.size()) refuse(piece.line, "a tag without its end {}", end);
      if (open.empty() && take_end(end)) break;
      piece.tokens.push_back(read_token(open));
    }
    piece.tokens.push_back({Token::Kind::kEnd, std::string(end), line_});
    pieces_.push_back(std::move(piece));
  }

  Token read_token(std::string& open) {
    const char c = source_[at_];
    const std::size_t begin = at_;
    std::size_t end = at_;
    if (c == '\'' || c == '"') return read_string(c);
    if (is_name_start(c)) {
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      advance(end);
      return {Token::Kind::kName, source_.substr(begin, end - begin), line_};
    }
    if (is_digit(c)) {
      const auto digits = [&] {
        while (end < source_.size() && is_digit(source_[end])) ++end;
      };
      digits();
      const bool real = end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1]);
      if (real) {
        ++end;
        digits();
      }
      if (end < source_.size() && is_name_start(source_[end]))
        refuse(line_, "unsupported: this form of number");
      advance(end);
      return {real ? Token::Kind::kFloat : Token::Kind::kInteger, source_.substr(begin, end - begin), line_};
    }
    constexpr auto kOperators = std::to_array<std::string_view>(
        {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<",
         ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ",", ":", ".", "|"});
    for (const std::string_view op : kOperators) {
      if (!looking_at(op)) continue;
      if (c == '(' || c == '[' || c == '{') {
        open += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) refuse(line_, "an unexpected {}", c);
        open.pop_back();
      }
      advance(at_ + op.size());
      return {Token::Kind::kOperator, std::string(op), line_};
    }
    refuse(line_, "an unexpected character, byte 0x{:02X}", static_cast<unsigned char>(c));
  }

  unsigned read_hex(std::size_t digits, int line) {
    unsigned code = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char c = at_ < source_.size() ? source_[at_] : '\0';
      const bool lower = c >= 'a' && c <= 'f', upper = c >= 'A' && c <= 'F';
      if (!is_digit(c) && !lower && !upper) refuse(line, "a string with a wrong \\x or \\u");
      code = code * 16 + static_cast<unsigned>(is_digit(c) ? c - '0' : lower ? c - 'a' + 10 : c - 'A' + 10);
      advance(at_ + 1);
    }
    return code;
  }

  Token read_string(char quote) {
    Token token{Token::Kind::kString, {}, line_};
    advance(at_ + 1);
    for (;;) {
      if (at_ == source_.size()) refuse(token.line, "a string without its end {}", quote);
      const char c = source_[at_];
      advance(at_ + 1);
      if (c == quote) return token;
      if (c != '\\') {
        token.text += c;
        continue;
      }
      if (at_ == source_.size()) continue;
      const char escaped = source_[at_];
      advance(at_ + 1);
      constexpr std::string_view kEscapes = "ntrabfv0\\'\"", kMeant("\n\t\r\a\b\f\v\0\\'\"", 11);
      const std::size_t known = kEscapes.find(escaped);
      if (known != std::string_view::npos) {
        token.text += kMeant[known];
      } else if (escaped == 'x' || escaped == 'u') {
        const unsigned code = read_hex(escaped == 'x' ? 2 : 4, token.line);
        if (code >= 0xD800 && code < 0xE000) refuse(token.line, "a string with half a character");
        append_utf8(code, token.text);
      } else if (escaped != '\n') {
        token.text += '\\';
        token.text += escaped;
      }
    }
  }

  const std::string& name_;
  std::string source_;
  std::vector<Piece> pieces_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::vector<Piece> cut_template(std::string_view source, const std::string& name) {
  return Lexer(source, name).run();
}

}  // namespace stem::chat
