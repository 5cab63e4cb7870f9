#include "text/chat_template.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/error.h"
#include "text/chat_template_calls.h"
#include "text/chat_template_parser.h"
#include "text/utf8.h"

namespace stem {
namespace chat {
namespace {

constexpr std::size_t kMaxOutputBytes = std::size_t{64} << 20;

class Renderer {
 public:
  Renderer(Entries variables, std::time_t now) : variables_(std::move(variables)), now_(now) {}

  std::string run(const Body& body) {
    std::string out;
    run(body, out);
    return out;
  }
  int line() const { return line_; }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Names that are set within a loop or a block end with it.
  class Scope {
   public:
    explicit Scope(Renderer& renderer)
        : renderer_(renderer), outer_(std::exchange(renderer.scope_, renderer.variables_.size())) {}
    ~Scope() {
      renderer_.variables_.resize(renderer_.scope_);
      renderer_.scope_ = outer_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Renderer& renderer_;
    std::size_t outer_;
  };

  const Value* find(std::string_view name) const {
    for (auto entry = variables_.rbegin(); entry != variables_.rend(); ++entry) {
      if (entry->first == name) return &entry->second;
    }
    return nullptr;
  }

  void set(const std::string& name, Value value) {
    for (std::size_t i = scope_; i < variables_.size(); ++i) {
      if (variables_[i].first != name) continue;
      variables_[i].second = std::move(value);
      return;
    }
    variables_.emplace_back(name, std::move(value));
  }

  void set_all(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) {
      set(names[0], value);
      return;
    }
    const List items = elements(value, meter_);
    if (items.size() != names.size()) refuse("expected {} values, found {}", names.size(), items.size());
    for (std::size_t i = 0; i < names.size(); ++i) set(names[i], items[i]);
  }

  void set_member(const std::string& name, const std::string& member, Value value) {
    const Value* found = find(name);
    Space* space = found != nullptr ? found->as_space() : nullptr;
    if (space == nullptr) refuse("{} is no namespace, whose members could be set", name);
    if (value.as_space() != nullptr) refuse("unsupported: a namespace within another value");
    for (auto& [key, known] : space->entries) {
      if (key != member) continue;
      known = std::move(value);
      return;
    }
    space->entries.emplace_back(member, std::move(value));
  }

  void assign(const Statement& statement, Value value) {
    if (statement.text.empty()) {
      set_all(statement.names, value);
    } else {
      set_member(statement.names[0], statement.text, std::move(value));
    }
  }

  static void append(std::string_view text, std::string& out) {
    if (text.size() > kMaxOutputBytes - out.size())
      refuse("an output of more than {} bytes", kMaxOutputBytes);
    out += text;
  }

  Flow run(const Body& body, std::string& out) {
    for (const Statement& statement : body) {
      const Flow flow = run(statement, out);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow run(const Statement& statement, std::string& out) {
    meter_.step();
    line_ = statement.line;
    switch (statement.kind) {
      case Statement::Kind::kText:
        append(statement.text, out);
        break;
      case Statement::Kind::kOutput: {
        const Value value = evaluate(*statement.expression);
        line_ = statement.line;
        append(text_of(value), out);
        break;
      }
      case Statement::Kind::kIf:
        for (const Branch& branch : statement.branches) {
          if (!branch.condition || truthy(evaluate(*branch.condition))) return run(branch.body, out);
        }
        break;
      case Statement::Kind::kFor:
        return loop(statement, out);
      case Statement::Kind::kSet:
        assign(statement, evaluate(*statement.expression));
        break;
      case Statement::Kind::kSetBlock: {
        std::string text;
        Flow flow = Flow::kNext;
        {
          const Scope scope(*this);
          flow = run(statement.branches[0].body, text);
        }
        if (flow != Flow::kNext) return flow;
        assign(statement, meter_.text(std::move(text)));
        break;
      }
      case Statement::Kind::kGroup: {
        const Scope scope(*this);
        return run(statement.branches[0].body, out);
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  static Value loop_value(const List& items, std::size_t i) {
    const auto at = static_cast<std::int64_t>(i), count = static_cast<std::int64_t>(items.size());
    return make_dict({
        {"index", Value::integer(at + 1)},
        {"index0", Value::integer(at)},
        {"revindex", Value::integer(count - at)},
        {"revindex0", Value::integer(count - at - 1)},
        {"first", Value::boolean(i == 0)},
        {"last", Value::boolean(i + 1 == items.size())},
        {"length", Value::integer(count)},
        {"previtem", i > 0 ? items[i - 1] : Value::undefined("the item before the first")},
        {"nextitem", i + 1 < items.size() ? items[i + 1] : Value::undefined("the item after the last")},
    });
  }

  Flow loop(const Statement& statement, std::string& out) {
    List items = elements(evaluate(*statement.expression), meter_);
    if (statement.filter) {
      List kept;
      for (Value& candidate : items) {
        meter_.step();
        const Scope scope(*this);
        set_all(statement.names, candidate);
        if (truthy(evaluate(*statement.filter))) kept.push_back(std::move(candidate));
      }
      items = std::move(kept);
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      meter_.step();
      line_ = statement.line;
      const Scope scope(*this);
      set("loop", loop_value(items, i));
      set_all(statement.names, items[i]);
      if (run(statement.branches[0].body, out) == Flow::kBreak) break;
    }
    if (!items.empty() || statement.branches.size() < 2) return Flow::kNext;
    const Scope scope(*this);
    return run(statement.branches[1].body, out);
  }

  // expressions

  Value evaluate(const Expression& e) {
    meter_.step();
    line_ = e.line;
    using Kind = Expression::Kind;
    switch (e.kind) {
      case Kind::kLiteral:
        return e.value;
      case Kind::kName: {
        const Value* found = find(e.text);
        if (found == nullptr && is_function(e.text))
          refuse("unsupported: the function {} as a value", e.text);
        return found != nullptr ? *found : Value::undefined(e.text);
      }
      case Kind::kList:
      case Kind::kTuple: {
        List items;
        for (const ExpressionPtr& part : e.parts) items.push_back(evaluate(*part));
        meter_.bytes(items.size() * sizeof(Value));
        return make_list(std::move(items), e.kind == Kind::kTuple);
      }
      case Kind::kDict:
        return dict(e);
      case Kind::kMember: {
        const Value object = evaluate(*e.parts[0]);
        line_ = e.line;
        return member(object, e.text);
      }
      case Kind::kItem: {
        const Value object = evaluate(*e.parts[0]);
        const Value key = evaluate(*e.parts[1]);
        line_ = e.line;
        return item(object, key, meter_);
      }
      case Kind::kSlice:
        return slice(e);
      case Kind::kCall:
        return call(e);
      case Kind::kFilter: {
        const Value value = evaluate(*e.parts[0]);
        const Arguments given = arguments(e);
        line_ = e.line;
        return apply_filter(e.text, value, given, meter_);
      }
      case Kind::kTest: {
        const Expression& tested = *e.parts[0];
        const bool function =
            tested.kind == Kind::kName && find(tested.text) == nullptr && is_function(tested.text);
        if (function && (e.text == "defined" || e.text == "undefined")) {
          return Value::boolean(e.text == "defined");
        }
        const Value value = evaluate(tested);
        const Arguments given = arguments(e);
        line_ = e.line;
        return Value::boolean(apply_test(e.text, value, given));
      }
      case Kind::kUnary:
        return unary(e);
      case Kind::kBinary:
        return binary(e);
      case Kind::kCompare:
        return compare(e);
      case Kind::kAnd: {
        Value left = evaluate(*e.parts[0]);
        return truthy(left) ? evaluate(*e.parts[1]) : left;
      }
      case Kind::kOr: {
        Value left = evaluate(*e.parts[0]);
        return truthy(left) ? left : evaluate(*e.parts[1]);
      }
      case Kind::kConditional:
        if (truthy(evaluate(*e.parts[1]))) return evaluate(*e.parts[0]);
        return e.parts[2] ? evaluate(*e.parts[2]) : Value::undefined("an if without else");
    }
    return Value::none();
  }

  Value dict(const Expression& e) {
    Entries entries;
    for (std::size_t i = 0; i < e.parts.size(); i += 2) {
      const Value key = evaluate(*e.parts[i]);
      if (key.as_text() == nullptr) refuse("unsupported: a dict with {} as a key", kind_of(key));
      Value value = evaluate(*e.parts[i + 1]);
      bool known = false;
      for (auto& [name, old] : entries) {
        if (name != *key.as_text()) continue;
        old = value;
        known = true;
      }
      if (!known) entries.emplace_back(*key.as_text(), std::move(value));
    }
    meter_.bytes(entries.size() * sizeof(Entries::value_type));
    return make_dict(std::move(entries));
  }

  // Python's object[start:stop:step].
  Value slice(const Expression& e) {
    const Value object = evaluate(*e.parts[0]);
    const auto bound = [&](std::size_t i, std::int64_t otherwise) {
      if (!e.parts[i]) return otherwise;
      const Value value = evaluate(*e.parts[i]);
      std::int64_t number = 0;
      if (value.is<None>()) return otherwise;
      if (!value.as_integer(number)) refuse("a slice with {} as a bound", kind_of(value));
      return number;
    };
    if (object.as_list() == nullptr && object.as_text() == nullptr) {
      refuse("cannot slice {}", kind_of(object));
    }
    const List items = elements(object, meter_);
    const auto size = static_cast<std::int64_t>(items.size());
    const std::int64_t step = bound(3, 1);
    if (step == 0) refuse("a slice with a step of 0");
    const bool forward = step > 0;
    const std::int64_t low = forward ? 0 : -1, high = forward ? size : size - 1;
    const auto clamp = [&](std::int64_t i) {
      if (i < 0) i = i < -size ? low : i + size;
      return std::min(std::max(i, low), high);
    };
    constexpr std::int64_t kAbsent = std::numeric_limits<std::int64_t>::min();
    const std::int64_t from = bound(1, kAbsent), to = bound(2, kAbsent);
    const std::int64_t start = from == kAbsent ? (forward ? low : high) : clamp(from);
    const std::int64_t stop = to == kAbsent ? (forward ? high : low) : clamp(to);
    List out;
    for (std::int64_t i = start; forward ? i < stop : i > stop;) {
      out.push_back(items[static_cast<std::size_t>(i)]);
      if (std::abs(step) > size) break;
      i += step;
    }
    if (object.as_list() != nullptr) {
      meter_.bytes(out.size() * sizeof(Value));
      return make_list(std::move(out), object.as_list()->tuple);
    }
    std::string text;
    for (const Value& character : out) text += *character.as_text();
    return meter_.text(std::move(text));
  }

  Arguments arguments(const Expression& e) {
    Arguments out;
    const std::size_t first_named = e.parts.size() - e.names.size();
    for (std::size_t i = 1; i < e.parts.size(); ++i) {
      Value value = evaluate(*e.parts[i]);
      if (i < first_named) {
        out.positional.push_back(std::move(value));
      } else {
        out.named.emplace_back(e.names[i - first_named], std::move(value));
      }
    }
    return out;
  }

  Value call(const Expression& e) {
    const Expression& callee = *e.parts[0];
    if (callee.kind == Expression::Kind::kName) {
      if (const Value* found = find(callee.text)) {
        refuse("{} is {}, not a function", callee.text, kind_of(*found));
      }
      const Arguments given = arguments(e);
      line_ = e.line;
      return call_function(callee.text, given, now_, meter_);
    }
    if (callee.kind != Expression::Kind::kMember) refuse("unsupported: a call of what is not a name");
    const Value object = evaluate(*callee.parts[0]);
    const Arguments given = arguments(e);
    line_ = e.line;
    return call_method(object, callee.text, given, meter_);
  }

  Value unary(const Expression& e) {
    const Value value = evaluate(*e.parts[0]);
    if (e.text == "not") return Value::boolean(!truthy(value));
    if (!value.is_number()) refuse("{} before {}", e.text, kind_of(value));
    std::int64_t integer = 0;
    if (!value.as_integer(integer)) return {e.text == "-" ? -value.as_double() : value.as_double()};
    return Value::integer(e.text == "-" ? checked(__builtin_sub_overflow(0, integer, &integer), integer)
                                        : integer);
  }

  static std::int64_t checked(bool overflow, const std::int64_t& result) {
    if (overflow) refuse("an integer beyond 64 bits");
    return result;
  }

  Value binary(const Expression& e) {
    const Value a = evaluate(*e.parts[0]), b = evaluate(*e.parts[1]);
    line_ = e.line;
    const std::string& op = e.text;
    if (op == "~") return meter_.text(text_of(a) + text_of(b));
    for (const Value* value : {&a, &b}) {
      if (const auto* missing = std::get_if<Undefined>(&value->data))
        refuse("{} is undefined", missing->name);
    }
    if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
    const std::string* text = a.as_text();
    std::int64_t times = 0;
    if (op == "+" && text != nullptr && b.as_text() != nullptr) {
      meter_.bytes(text->size() + b.as_text()->size());
      return Value::text(*text + *b.as_text());
    }
    if (op == "+" && a.as_list() != nullptr && b.as_list() != nullptr &&
        a.as_list()->tuple == b.as_list()->tuple) {
      List items = elements(a, meter_);
      const List more = elements(b, meter_);
      items.insert(items.end(), more.begin(), more.end());
      return make_list(std::move(items), a.as_list()->tuple);
    }
    if (op == "*" && text != nullptr && b.as_integer(times)) {
      std::string out;
      if (text->empty()) return a;
      for (std::int64_t i = 0; i < times; ++i) {
        meter_.bytes(text->size());
        out += *text;
      }
      return Value::text(std::move(out));
    }
    refuse("unsupported: {} {} {}", kind_of(a), op, kind_of(b));
  }

  static Value arithmetic(const std::string& op, const Value& a, const Value& b) {
    std::int64_t i = 0, j = 0, result = 0;
    const double x = a.as_double(), y = b.as_double();
    if ((op == "/" || op == "//" || op == "%") && y == 0) refuse("a division by 0");
    if (op == "/") return {x / y};
    if (a.as_integer(i) && b.as_integer(j)) {
      if (op == "+") return Value::integer(checked(__builtin_add_overflow(i, j, &result), result));
      if (op == "-") return Value::integer(checked(__builtin_sub_overflow(i, j, &result), result));
      if (op == "*") return Value::integer(checked(__builtin_mul_overflow(i, j, &result), result));
      if (j == -1) {
        if (op == "%") return Value::integer(0);
        return Value::integer(checked(__builtin_sub_overflow(0, i, &result), result));
      }
      const bool below = i % j != 0 && (i < 0) != (j < 0);  // Python rounds down
      return Value::integer(op == "%" ? i % j + (below ? j : 0) : i / j - (below ? 1 : 0));
    }
    if (op == "+") return {x + y};
    if (op == "-") return {x - y};
    if (op == "*") return {x * y};
    return {op == "//" ? std::floor(x / y) : x - y * std::floor(x / y)};
  }

  Value compare(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    for (std::size_t i = 0; i < e.names.size(); ++i) {
      Value right = evaluate(*e.parts[i + 1]);
      line_ = e.line;
      const std::string& op = e.names[i];
      bool holds = false;
      if (op == "==" || op == "!=") {
        holds = equal(left, right) == (op == "==");
      } else if (op == "in" || op == "not in") {
        holds = contains(right, left, meter_) == (op == "in");
      } else {
        const int sign = order(left, right);
        holds = op == "<" ? sign < 0 : op == "<=" ? sign <= 0 : op == ">" ? sign > 0 : sign >= 0;
      }
      if (!holds) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Entries variables_;      // the innermost scope last
  std::size_t scope_ = 0;  // where it begins
  std::time_t now_;
  Meter meter_;
  int line_ = 1;
};

}  // namespace
}  // namespace chat

struct ChatTemplate::Parsed {
  std::string name;
  chat::Body body;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string_view name) {
  const std::string file(name);
  if (source.size() > kMaxSourceBytes) {
    fail(ErrorCode::kFormat, "{}: expected a template of at most {} bytes, found {}", name, kMaxSourceBytes,
         source.size());
  }
  check_utf8(source, name);
  parsed_ = std::make_unique<const Parsed>(Parsed{file, chat::parse_template(source, file)});
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const ChatTemplateInput& input) const {
  int line = 0;
  try {
    chat::Entries variables;
    const auto set = [&](const char* key, chat::Value value) {
      if (!input.variables.contains(key)) variables.emplace_back(key, std::move(value));
    };
    set("messages", chat::from_json(input.messages));
    set("add_generation_prompt", chat::Value::boolean(input.add_generation_prompt));
    set("bos_token", chat::Value::text(input.bos_token));
    set("eos_token", chat::Value::text(input.eos_token));
    // transformers always defines these two
    set("tools", chat::Value::none());
    set("documents", chat::Value::none());
    for (const auto& [key, value] : input.variables.items())
      variables.emplace_back(key, chat::from_json(value));
    chat::Renderer renderer(std::move(variables), input.now ? *input.now : std::time(nullptr));
    try {
      return renderer.run(parsed_->body);
    } catch (...) {
      line = renderer.line();
      throw;
    }
  } catch (const chat::Fault& fault) {
    fail(fault.code, "{}: line {}: {}", parsed_->name, line, fault.text);
  } catch (const std::length_error& error) {
    fail(ErrorCode::kFormat, "{}: line {}: unsupported: {}", parsed_->name, line, error.what());
  }
}

}  // namespace stem
