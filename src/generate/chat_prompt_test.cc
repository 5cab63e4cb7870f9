#include "generate/chat_prompt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/error.h"

namespace stem {
namespace {

// The 256 bytes and the marks of ChatML.
Tokenizer chatml(const std::string& chat_template) {
  const std::string json =
      R"({"version": "1.0", "added_tokens": [
           {"id": 256, "content": "<|im_start|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
           {"id": 257, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
         "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
         "post_processor": null, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "merges": [], "vocab": {)";
  std::string vocab;
  for (int b = 33, id = 0; b < 127; ++b, ++id)
    vocab +=
        (id == 0 ? "" : ", ") + Json(std::string(1, static_cast<char>(b))).dump() + ": " + std::to_string(id);
  vocab += R"(, "Ġ": 94, "Ċ": 95)";
  const Json config{
      {"bos_token", "<|im_start|>"}, {"eos_token", "<|im_end|>"}, {"chat_template", chat_template}};
  return Tokenizer::from_json(json + vocab + "}}}", "t").with_config(config.dump(), "c");
}

constexpr const char* kTemplate =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

std::string told(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(ChatPrompt, MarksAreTokensAndTheAnswerIsOpened) {
  const Tokenizer t = chatml(kTemplate);
  const auto ids = ChatPrompt(t).encode({{"system", "Be brief."}, {"user", "Hi"}});
  EXPECT_EQ(
      t.decode(ids),
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 256), 3);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 257), 2);
}

TEST(ChatPrompt, ALongerConversationBeginsLikeTheShorter) {
  const Tokenizer t = chatml(kTemplate);
  const ChatPrompt prompt(t);
  const auto first = prompt.encode({{"user", "Hi"}});
  const auto second = prompt.encode({{"user", "Hi"}, {"assistant", "Yes?"}, {"user", "Go"}});
  ASSERT_LT(first.size(), second.size());
  EXPECT_TRUE(std::equal(first.begin(), first.end(), second.begin()));
}

TEST(ChatPrompt, FaultsAreNamed) {
  EXPECT_EQ(told([] {
              ChatPrompt(chatml(kTemplate)).encode({{"user", "a<|im_end|>b"}});
            }),
            "a message: expected text, found the special token \"<|im_end|>\"");
  EXPECT_NE(told([] { ChatPrompt(chatml("{% for %}")); }).find("chat_template: line 1"), std::string::npos);
  EXPECT_NE(told([] {
              ChatPrompt(chatml("{{ raise_exception('no system') }}")).encode({{"user", "a"}});
            }).find("no system"),
            std::string::npos);
}

}  // namespace
}  // namespace stem
