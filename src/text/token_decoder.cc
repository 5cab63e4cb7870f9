#include "text/token_decoder.h"

#include <fmt/format.h>

#include "core/error.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr int kMaxDepth = 8;  // of Sequences within Sequences
constexpr std::size_t kMaxSteps = 64;
constexpr std::size_t kMaxContentBytes = 256;

void check_byte_level(const Json& json, std::string_view name, int depth) {
  const std::string type = get_string(json, "type", name);
  if (type == "ByteLevel") return;
  if (type != "Sequence" || depth >= kMaxDepth) {
    fail(ErrorCode::kFormat, "{}: type: expected ByteLevel, as in pre_tokenizer, found {}", name,
         shown(type));
  }
  for (const Json& step : get_array(json, "decoders", name)) check_byte_level(step, name, depth + 1);
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (;;) {
    const std::size_t at = text.find(from);
    out += text.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += to;
    text.remove_prefix(at + from.size());
  }
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

int byte_of_token(std::string_view written) {
  if (written.size() != 6 || !written.starts_with("<0x") || written[5] != '>') return -1;
  const int high = hex_digit(written[3]), low = hex_digit(written[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string token_of_byte(unsigned char byte) {
  return fmt::format("<0x{:02X}>", byte);
}

TokenDecoder::TokenDecoder(const Json* json, bool byte_level, std::string_view name) {
  if (byte_level) {
    if (json != nullptr) check_byte_level(*json, name, 0);
    return;
  }
  if (json == nullptr) {
    // Hugging Face's library would put spaces between the tokens.
    fail(ErrorCode::kFormat, "{}: expected Metaspace or a Sequence for a vocabulary of text, found null",
         name);
  }
  add(*json, name, 0);
}

void TokenDecoder::add(const Json& json, std::string_view name, int depth) {
  const std::string type = get_string(json, "type", name);
  if (steps_.size() >= kMaxSteps) fail(ErrorCode::kFormat, "{}: more than {} steps", name, kMaxSteps);
  if (type == "Sequence" && depth < kMaxDepth) {
    for (const Json& step : get_array(json, "decoders", name, kMaxSteps)) add(step, name, depth + 1);
    return;
  }
  if (strip_count_ > 0 || (fused_ && type != "Strip")) {
    fail(ErrorCode::kFormat, "{}: unsupported: {} after {}", name, shown(type),
         strip_count_ > 0 ? "Strip" : "Fuse");
  }
  if (type == "Replace") {
    const Json& pattern = get_object(json, "pattern", name);
    if (find_field(pattern, "Regex", name) != nullptr) {
      fail(ErrorCode::kFormat, "{}: Replace: unsupported: a Regex", name);
    }
    Step step{Step::Kind::kReplace, get_string(pattern, "String", name, kMaxContentBytes),
              get_string(json, "content", name, kMaxContentBytes)};
    if (step.pattern.empty()) fail(ErrorCode::kFormat, "{}: Replace: the string is empty", name);
    steps_.push_back(std::move(step));
  } else if (type == "ByteFallback") {
    steps_.push_back({Step::Kind::kByteFallback, {}, {}});
  } else if (type == "Metaspace") {
    const Metaspace metaspace = read_metaspace(json, name);
    const bool drop = metaspace.prepend != Metaspace::Prepend::kNever;
    steps_.push_back({Step::Kind::kMetaspace, metaspace.replacement, " ", drop});
    first_differs_ |= drop;
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Strip" && fused_) {
    strip_content_ = get_string(json, "content", name, kMaxContentBytes);
    strip_count_ = static_cast<std::size_t>(get_int(json, "start", name, 0, 1 << 16));
    if (strip_content_.empty()) fail(ErrorCode::kFormat, "{}: Strip: the content is empty", name);
    if (get_int(json, "stop", name, 0) != 0) {
      fail(ErrorCode::kFormat, "{}: Strip: stop: unsupported: expected 0, for a stream has no end", name);
    }
  } else {
    fail(ErrorCode::kFormat,
         "{}: type: expected Replace, ByteFallback, Metaspace, Fuse, Strip after Fuse, or Sequence, found {}",
         name, shown(type));
  }
}

std::string TokenDecoder::decode(std::string_view written, bool first) const {
  std::string text(written);
  for (const Step& step : steps_) {
    if (step.kind == Step::Kind::kByteFallback) {
      const int byte = byte_of_token(text);
      if (byte >= 0) return std::string(1, static_cast<char>(static_cast<unsigned char>(byte)));
    } else if (text.find(step.pattern) != std::string::npos) {
      text = replace_all(text, step.pattern, first && step.drop_in_first ? "" : step.content);
    }
  }
  return text;
}

}  // namespace stem
