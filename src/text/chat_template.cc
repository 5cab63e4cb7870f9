#include "text/chat_template.h"

#include <array>
#include <optional>
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
        return evaluate_slice(e);
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
        return unary(e.text, evaluate(*e.parts[0]));
      case Kind::kBinary: {
        const Value left = evaluate(*e.parts[0]), right = evaluate(*e.parts[1]);
        line_ = e.line;
        return binary(e.text, left, right, meter_);
      }
      case Kind::kCompare:
        return evaluate_compare(e);
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

  Value evaluate_slice(const Expression& e) {
    const Value object = evaluate(*e.parts[0]);
    std::array<std::optional<Value>, 3> bounds;
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      if (e.parts[i + 1]) bounds[i] = evaluate(*e.parts[i + 1]);
    }
    line_ = e.line;
    const auto given = [&](std::size_t i) { return bounds[i] ? &*bounds[i] : nullptr; };
    return slice(object, given(0), given(1), given(2), meter_);
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

  Value evaluate_compare(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    for (std::size_t i = 0; i < e.names.size(); ++i) {
      Value right = evaluate(*e.parts[i + 1]);
      line_ = e.line;
      if (!compare(e.names[i], left, right, meter_)) return Value::boolean(false);
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
