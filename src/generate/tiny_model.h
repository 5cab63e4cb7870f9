// For tests: a random model of a few thousand parameters and a tokenizer of bytes, some pairs and ChatML
// marks.
#pragma once

#include <string>

#include "model/model.h"
#include "text/tokenizer.h"

namespace stem {

/// Ids 0 – 255 are bytes in the order of their alphabet; then " t", "he", "in"; then "<|im_start|>" and
/// "<|im_end|>" (the end-of-text token).
inline Tokenizer tiny_tokenizer(bool with_chat_template = true) {
  std::string vocab, merges;
  const auto add = [&](const std::string& written, int id) {
    vocab += (vocab.empty() ? "" : ", ") + Json(written).dump() + ": " + std::to_string(id);
  };
  // The bytes that Latin-1 prints stand for themselves, the others for U+0100 and what follows it.
  int id = 0;
  const auto code_point = [](int c) {
    std::string out;
    if (c < 0x80) return std::string(1, static_cast<char>(c));
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
    return out;
  };
  for (int b = 33; b < 127; ++b) add(code_point(b), id++);
  for (int b = 0xA1; b < 0x100; ++b) {
    if (b != 0xAD) add(code_point(b), id++);
  }
  for (int c = 0x100; c < 0x100 + 68; ++c) add(code_point(c), id++);
  add("\u0120t", 256);
  add("he", 257);
  add("in", 258);
  const std::string json =
      R"({"version": "1.0", "added_tokens": [
           {"id": 259, "content": "<|im_start|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
           {"id": 260, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
         "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
         "post_processor": null, "decoder": {"type": "ByteLevel"},
         "model": {"type": "BPE", "merges": [["Ġ", "t"], ["h", "e"], ["i", "n"]], "vocab": {)" +
      vocab + "}}}";
  Json config{{"bos_token", "<|im_start|>"}, {"eos_token", "<|im_end|>"}};
  if (with_chat_template) {
    config["chat_template"] =
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  }
  return Tokenizer::from_json(json, "tiny").with_config(config.dump(), "tiny");
}

inline ModelConfig tiny_config(std::int64_t context = 128) {
  ModelConfig c;
  c.vocab = 261;
  c.width = 32;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_width = 8;
  c.ffn = 48;
  c.max_positions = context;
  c.stem_layers = {1, 2};
  return c;
}

}  // namespace stem
