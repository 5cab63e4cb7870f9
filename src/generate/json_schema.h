// JSON schemas as grammars: answers that are JSON of a wanted form.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "generate/byte_grammar.h"
#include "io/json.h"

namespace stem {

struct SchemaGrammar {
  std::shared_ptr<const ByteGrammar> grammar;
  ByteGrammar::Rule root = 0;
};

/// The JSON texts that a schema describes, members in the order of `properties`, white space after `{ [ , :`
/// and before `] }` and `,` of at most one space or one line break with 16 spaces. {}: any value.
///
///   type (one or several) object, array, string, integer, number, boolean, null; enum, const
///   properties, required, additionalProperties (other members only where this says so, or where there are no
///   properties; their names are ASCII), items, minItems, maxItems, minLength, maxLength
///   anyOf, oneOf (taken as anyOf), allOf of one, $ref to #, #/$defs/…, #/definitions/…
///
/// Annotations (title, description, default, examples, format, …) change nothing. Anything else is refused
/// with kUsage, by name and place.
SchemaGrammar schema_grammar(const Json& schema);

/// Any JSON object (response_format json_object).
SchemaGrammar object_grammar();

/// Constraints for answers of one model; the tokens' tree is made when first wanted. Thread safe.
class SchemaConstraints {
 public:
  SchemaConstraints(Tokenizer tokenizer, std::int64_t vocab)
      : tokenizer_(std::move(tokenizer)), vocab_(vocab) {}
  /// What GenerationRequest::constraint wants; an empty object stands for any object.
  std::function<std::unique_ptr<TokenConstraint>()> maker(const Json& schema,
                                                          std::vector<std::int32_t> stop_tokens);

 private:
  Tokenizer tokenizer_;
  std::int64_t vocab_;
  std::mutex mutex_;
  std::shared_ptr<const TokenTrie> trie_;
};

}  // namespace stem
