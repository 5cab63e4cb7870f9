#include "generate/json_schema.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"

namespace stem {
namespace {

using Node = ByteGrammar::Node;
using Rule = ByteGrammar::Rule;
constexpr Node kReturn = ByteGrammar::kReturn;
constexpr std::int64_t kMaxCount = 4096;  // of characters and items that are counted
constexpr std::size_t kMaxProperties = 256;

const std::set<std::string> kAnnotations{"title",    "description", "default",    "examples",    "$schema",
                                         "$id",      "$comment",    "$defs",      "definitions", "format",
                                         "readOnly", "writeOnly",   "deprecated", "$anchor",     "strict"};

// Builds one grammar. Every function takes the node that follows.
class Builder {
 public:
  explicit Builder(const Json& schema) : root_schema_(schema) { add_common_rules(); }

  SchemaGrammar build() {
    const Rule value = rule_of(root_schema_, "#");
    return finish(value);
  }
  SchemaGrammar build_any_object() { return finish(any_object_); }

 private:
  SchemaGrammar finish(Rule value) {
    const Rule root = g_->add_rule();
    g_->define(root, g_->call(space_, g_->call(value, kReturn)));
    g_->check("the schema");
    return {g_, root};
  }

  Node byte(std::string_view set, Node next) { return g_->byte(ByteGrammar::any_of(set), next); }
  Node space(Node next) { return g_->call(space_, next); }

  // At most `most` of a set.
  Node up_to(int most, const ByteGrammar::Bytes& set, Node next) {
    Node at = next;
    for (int i = 0; i < most; ++i) at = g_->fork({next, g_->byte(set, at)});
    return at;
  }

  // One character of a string: any but control characters, quote and backslash, or an escape of one. Code
  // points that are halves of pairs are left out.
  Node character(Node next) {
    const auto range = [&](int a, int b, Node n) { return g_->byte(ByteGrammar::range(a, b), n); };
    const auto tail = [&](Node n) { return range(0x80, 0xBF, n); };
    ByteGrammar::Bytes plain = ByteGrammar::range(0x20, 0x7F);
    plain.reset('"').reset('\\');
    const ByteGrammar::Bytes hex = ByteGrammar::any_of("0123456789abcdefABCDEF");
    const Node hex1 = g_->byte(hex, next), hex2 = g_->byte(hex, hex1), hex3 = g_->byte(hex, hex2);
    const Node unicode = g_->fork({byte("0123456789abcefABCEF", hex3), byte("dD", byte("01234567", hex2))});
    const Node t1 = tail(next), t2 = tail(t1), t3 = tail(t2);
    return g_->fork({g_->byte(plain, next), range(0xC2, 0xDF, t1), range(0xE0, 0xE0, range(0xA0, 0xBF, t1)),
                     range(0xE1, 0xEC, t2), range(0xED, 0xED, range(0x80, 0x9F, t1)), range(0xEE, 0xEF, t2),
                     range(0xF0, 0xF0, range(0x90, 0xBF, t2)), range(0xF1, 0xF3, t3),
                     range(0xF4, 0xF4, range(0x80, 0x8F, t2)),
                     byte("\\", g_->fork({byte("\"\\/bfnrt", next), byte("u", unicode)}))});
  }

  Rule defined(Node start) {
    const Rule rule = g_->add_rule();
    g_->define(rule, start);
    return rule;
  }

  void add_common_rules() {
    const ByteGrammar::Bytes blank = ByteGrammar::any_of(" \t");
    space_ = defined(g_->fork({kReturn, byte(" ", kReturn), byte("\n", up_to(16, blank, kReturn))}));
    character_ = defined(character(kReturn));
    const Node loop = g_->fork({byte("\"", kReturn)});
    g_->add_alternative(loop, character(loop));
    string_ = defined(byte("\"", loop));
    // Few enough digits for a double.
    const ByteGrammar::Bytes digits = ByteGrammar::range('0', '9');
    const auto whole = [&](Node next) {
      const Node positive = g_->fork({byte("0", next), byte("123456789", up_to(15, digits, next))});
      return g_->fork({positive, byte("-", positive)});
    };
    integer_ = defined(whole(kReturn));
    const Node exponent = byte("eE", g_->fork({byte("+-", g_->byte(digits, up_to(1, digits, kReturn))),
                                               g_->byte(digits, up_to(1, digits, kReturn))}));
    const Node tail = g_->fork({kReturn, exponent});
    number_ = defined(whole(g_->fork({tail, byte(".", g_->byte(digits, up_to(15, digits, tail)))})));
    any_ = g_->add_rule();
    any_object_ = defined(members_without_names(any_, kReturn));
    const Rule array = defined(array_of(any_, 0, -1, kReturn));
    g_->define(any_,
               g_->fork({g_->call(any_object_, kReturn), g_->call(array, kReturn), g_->call(string_, kReturn),
                         g_->call(number_, kReturn), g_->literal("true", kReturn),
                         g_->literal("false", kReturn), g_->literal("null", kReturn)}));
  }

  // { "any name": value, … }
  Node members_without_names(Rule value, Node next) {
    const Node end = byte("}", next);
    const Node more = g_->fork({end});
    const Node member = g_->call(string_, space(byte(":", space(g_->call(value, space(more))))));
    g_->add_alternative(more, byte(",", space(member)));
    return byte("{", space(g_->fork({end, member})));
  }

  // [ item, … ], from min to max of them; max −1: any number.
  Node array_of(Rule item, std::int64_t min, std::int64_t max, Node next) {
    const Node end = byte("]", next);
    // behind[i]: behind i items, white space read.
    Node behind = -1;
    if (max < 0) {
      behind = g_->fork({end});
      g_->add_alternative(behind, byte(",", space(g_->call(item, space(behind)))));
    } else {
      behind = end;  // behind `max` items
    }
    const std::int64_t last = max < 0 ? std::max<std::int64_t>(min, 1) : max;
    for (std::int64_t i = last - 1; i >= 1; --i) {
      const Node more = byte(",", space(g_->call(item, space(behind))));
      behind = i >= min ? g_->fork({end, more}) : more;
    }
    std::vector<Node> first;
    if (min == 0) first.push_back(end);
    if (max != 0) first.push_back(g_->call(item, space(behind)));
    return byte("[", space(g_->fork(first)));
  }

  Node string_of(std::int64_t min, std::int64_t max, Node next) {
    const Node end = byte("\"", next);
    Node at = end;
    if (max < 0) {
      at = g_->fork({end});
      g_->add_alternative(at, character(at));
    }
    for (std::int64_t i = (max < 0 ? min : max) - 1; i >= 0; --i) {
      const Node more = g_->call(character_, at);
      at = i >= min ? g_->fork({end, more}) : more;
    }
    return byte("\"", at);
  }

  // The rest of a member's name, quote included, that is none of `names` (their rests).
  Node other_name(const std::vector<std::string>& names, int depth, Node next) {
    ByteGrammar::Bytes plain = ByteGrammar::range(0x20, 0x7E);
    plain.reset('"').reset('\\');
    std::vector<Node> alternatives;
    std::map<char, std::vector<std::string>> by_first;
    bool ends = false;
    for (const std::string& name : names) {
      if (name.empty())
        ends = true;
      else
        by_first[name.front()].push_back(name.substr(1));
    }
    if (!ends && depth > 0) alternatives.push_back(byte("\"", next));
    for (const auto& [first, rests] : by_first) {
      const auto b = static_cast<unsigned char>(first);
      if (!plain.test(b)) continue;
      plain.reset(b);
      alternatives.push_back(byte({&first, 1}, other_name(rests, depth + 1, next)));
    }
    ByteGrammar::Bytes all = ByteGrammar::range(0x20, 0x7E);
    all.reset('"').reset('\\');
    const Node loop = g_->fork({byte("\"", next)});
    g_->add_alternative(loop, g_->byte(all, loop));
    alternatives.push_back(g_->byte(plain, loop));
    return g_->fork(alternatives);
  }

  struct Property {
    std::string name;
    Rule value = 0;
    bool required = false;
  };

  Node object_of(const std::vector<Property>& properties, bool more_members, Rule more_value, Node next) {
    const Node end = byte("}", next);
    // Behind all properties: nothing written yet, or something.
    Node empty = end, begun = end;
    if (more_members) {
      std::vector<std::string> names;
      for (const Property& p : properties) names.push_back(p.name);
      begun = g_->fork({end});
      const Node member =
          byte("\"", other_name(names, 0, space(byte(":", space(g_->call(more_value, space(begun)))))));
      g_->add_alternative(begun, byte(",", space(member)));
      empty = g_->fork({end, member});
    }
    for (std::size_t i = properties.size(); i-- > 0;) {
      const Property& p = properties[i];
      const Node member =
          g_->literal(Json(p.name).dump(), space(byte(":", space(g_->call(p.value, space(begun))))));
      const Node with_comma = byte(",", space(member));
      empty = p.required ? member : g_->fork({member, empty});
      begun = p.required ? with_comma : g_->fork({with_comma, begun});
    }
    return byte("{", space(empty));
  }

  [[noreturn]] static void refuse(const std::string& at, const std::string& message) {
    fail(ErrorCode::kUsage, "the schema: {}: {}", at, message);
  }

  static std::int64_t count(const Json& schema, const char* key, std::int64_t fallback) {
    return get_int_or(schema, key, "the schema", 0, kMaxCount, fallback);
  }

  // Refuses what would be ignored.
  static void check_known(const Json& schema, const std::set<std::string>& known, const std::string& at) {
    for (const auto& item : schema.items()) {
      if (!known.contains(item.key()) && !kAnnotations.contains(item.key()))
        refuse(at, "the keyword \"" + item.key() + "\" is not supported here");
    }
  }

  const Json& resolve(const std::string& pointer, const std::string& at) const {
    const Json* schema = &root_schema_;
    if (!pointer.starts_with("#"))
      refuse(at, "$ref: expected one that begins with #, found " + shown(pointer));
    try {
      schema = &root_schema_.at(Json::json_pointer(pointer.substr(1)));
    } catch (const Json::exception&) {
      refuse(at, "$ref: " + shown(pointer) + " leads nowhere");
    }
    return *schema;
  }

  // One rule for each place of the schema, so that $ref may go round in circles.
  Rule rule_of(const Json& schema, const std::string& at) {
    const auto [it, fresh] = rules_.try_emplace(&schema, 0);
    if (!fresh) return it->second;
    const Rule rule = it->second = g_->add_rule();
    g_->define(rule, value(schema, at));
    return rule;
  }

  Node value(const Json& schema, const std::string& at) {
    if (schema.is_boolean() && schema.get<bool>()) return g_->call(any_, kReturn);
    if (!schema.is_object()) refuse(at, "expected an object, found " + shown(schema));
    if (schema.contains("$ref")) {
      check_known(schema, {"$ref"}, at);
      const std::string pointer = get_string(schema, "$ref", "the schema: " + at, 1024);
      return g_->call(rule_of(resolve(pointer, at), pointer), kReturn);
    }
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      if (schema.contains(key)) return alternatives(schema, key, at);
    }
    if (schema.contains("const")) {
      check_known(schema, {"const", "type"}, at);
      return g_->literal(schema["const"].dump(), kReturn);
    }
    if (schema.contains("enum")) {
      check_known(schema, {"enum", "type"}, at);
      std::vector<Node> nodes;
      for (const Json& one : get_array(schema, "enum", "the schema: " + at, 4096))
        nodes.push_back(g_->literal(one.dump(), kReturn));
      if (nodes.empty()) refuse(at, "enum: expected at least one value, found none");
      return g_->fork(nodes);
    }
    return typed(schema, at);
  }

  Node alternatives(const Json& schema, const char* key, const std::string& at) {
    check_known(schema, {key}, at);
    const Json& list = get_array(schema, key, "the schema: " + at, 256);
    if (list.empty()) refuse(at, std::string(key) + ": expected at least one schema, found none");
    if (std::string_view(key) == "allOf" && list.size() != 1)
      refuse(at, "the keyword \"allOf\" is supported with one schema alone");
    std::vector<Node> nodes;
    for (std::size_t i = 0; i < list.size(); ++i)
      nodes.push_back(g_->call(rule_of(list[i], fmt::format("{}/{}/{}", at, key, i)), kReturn));
    return g_->fork(nodes);
  }

  static std::vector<std::string> types_of(const Json& schema, const std::string& at) {
    if (!schema.contains("type")) {
      if (schema.contains("properties") || schema.contains("required") ||
          schema.contains("additionalProperties"))
        return {"object"};
      if (schema.contains("items")) return {"array"};
      return {};
    }
    const Json& type = schema["type"];
    std::vector<std::string> types;
    for (const Json& one : type.is_array() ? type : Json::array({type})) {
      if (!one.is_string()) refuse(at, "type: expected a name, found " + shown(one));
      types.push_back(one.get<std::string>());
    }
    if (types.empty()) refuse(at, "type: expected at least one name, found none");
    return types;
  }

  Node typed(const Json& schema, const std::string& at) {
    const std::vector<std::string> types = types_of(schema, at);
    if (types.empty()) {
      check_known(schema, {}, at);
      return g_->call(any_, kReturn);
    }
    std::set<std::string> known{"type"};
    for (const std::string& type : types) {
      if (type == "object")
        known.merge(std::set<std::string>{"properties", "required", "additionalProperties"});
      if (type == "array") known.merge(std::set<std::string>{"items", "minItems", "maxItems"});
      if (type == "string") known.merge(std::set<std::string>{"minLength", "maxLength"});
    }
    check_known(schema, known, at);
    std::vector<Node> nodes;
    for (const std::string& type : types) nodes.push_back(of_type(type, schema, at));
    return g_->fork(nodes);
  }

  Node of_type(const std::string& type, const Json& schema, const std::string& at) {
    if (type == "object") return object(schema, at);
    if (type == "array") return array(schema, at);
    if (type == "string") {
      const std::int64_t min = count(schema, "minLength", 0), max = count(schema, "maxLength", -1);
      if (max >= 0 && max < min) refuse(at, "maxLength is less than minLength");
      return min == 0 && max < 0 ? g_->call(string_, kReturn) : string_of(min, max, kReturn);
    }
    if (type == "integer") return g_->call(integer_, kReturn);
    if (type == "number") return g_->call(number_, kReturn);
    if (type == "boolean") return g_->fork({g_->literal("true", kReturn), g_->literal("false", kReturn)});
    if (type == "null") return g_->literal("null", kReturn);
    refuse(at,
           "type: expected object, array, string, integer, number, boolean or null, found " + shown(type));
  }

  Node array(const Json& schema, const std::string& at) {
    const std::int64_t min = count(schema, "minItems", 0), max = count(schema, "maxItems", -1);
    if (max >= 0 && max < min) refuse(at, "maxItems is less than minItems");
    const Rule item = schema.contains("items") ? rule_of(schema["items"], at + "/items") : any_;
    return array_of(item, min, max, kReturn);
  }

  Node object(const Json& schema, const std::string& at) {
    std::vector<Property> properties;
    std::set<std::string> required;
    if (schema.contains("required")) {
      for (const Json& name : get_array(schema, "required", "the schema: " + at, kMaxProperties)) {
        if (!name.is_string()) refuse(at, "required: expected names, found " + shown(name));
        required.insert(name.get<std::string>());
      }
    }
    if (schema.contains("properties")) {
      for (const auto& item : get_object(schema, "properties", "the schema: " + at, kMaxProperties).items()) {
        const Rule rule = rule_of(item.value(), at + "/properties/" + item.key());
        properties.push_back({item.key(), rule, required.erase(item.key()) > 0});
      }
    }
    if (!required.empty())
      refuse(at, "required: " + shown(*required.begin()) + " is not among the properties");
    bool more = properties.empty();
    Rule more_value = any_;
    if (schema.contains("additionalProperties")) {
      const Json& rest = schema["additionalProperties"];
      more = !(rest.is_boolean() && !rest.get<bool>());
      if (rest.is_object()) more_value = rule_of(rest, at + "/additionalProperties");
    }
    if (more && properties.empty()) return members_without_names(more_value, kReturn);
    return object_of(properties, more, more_value, kReturn);
  }

  const Json& root_schema_;
  std::shared_ptr<ByteGrammar> g_ = std::make_shared<ByteGrammar>();
  Rule space_ = 0, character_ = 0, string_ = 0, integer_ = 0, number_ = 0, any_ = 0, any_object_ = 0;
  std::map<const Json*, Rule> rules_;
};

}  // namespace

SchemaGrammar schema_grammar(const Json& schema) {
  return Builder(schema).build();
}

SchemaGrammar object_grammar() {
  const Json any = Json::object();
  return Builder(any).build_any_object();
}

std::function<std::unique_ptr<TokenConstraint>()> SchemaConstraints::maker(
    const Json& schema, std::vector<std::int32_t> stop_tokens) {
  const SchemaGrammar grammar = schema.empty() ? object_grammar() : schema_grammar(schema);
  const std::lock_guard lock(mutex_);
  if (!trie_) trie_ = std::make_shared<TokenTrie>(tokenizer_, vocab_);
  return [grammar, trie = trie_, stops = std::move(stop_tokens)] {
    return std::make_unique<GrammarConstraint>(grammar.grammar, grammar.root, trie, stops);
  };
}

}  // namespace stem
