#include "data/text_source.h"

#include <algorithm>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";

void check_text(std::string_view text, const std::string& name) {
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    fail(ErrorCode::kFormat, "{}: expected text, found a NUL byte at {}: a binary file?", name, nul);
  }
  check_utf8(text, name);
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

void read_jsonl(std::string_view text, const std::string& name, const std::string& field,
                std::vector<std::string>& into) {
  std::size_t line = 0;
  while (!text.empty()) {
    ++line;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (is_blank(row)) continue;
    const std::string where = fmt::format("{}: line {}", name, line);
    into.push_back(get_string(parse_json(row, where), field, where, std::size_t{1} << 30));
    check_text(into.back(), where);
  }
}

void read_one(const std::filesystem::path& path, const TextOptions& options, std::vector<std::string>& into) {
  const std::string text = read_file(path, options.max_file_bytes), name = path.string();
  if (is_blank(text)) fail(ErrorCode::kFormat, "{}: expected text, found an empty file", name);
  if (path.extension() == ".jsonl") return read_jsonl(text, name, options.jsonl_field, into);
  check_text(text, name);
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(kEndOfText), rest.size());
    if (!is_blank(rest.substr(0, end))) into.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + kEndOfText.size(), rest.size()));
  }
}

}  // namespace

std::vector<std::string> read_documents(const std::filesystem::path& path, const TextOptions& options) {
  std::vector<std::string> documents;
  if (!std::filesystem::is_directory(path)) {
    read_one(path, options, documents);
  } else {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      const auto extension = entry.path().extension();
      if (entry.is_regular_file() && (extension == ".txt" || extension == ".md" || extension == ".jsonl"))
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());  // the file system's order is not the same everywhere
    for (const auto& file : files) read_one(file, options, documents);
  }
  if (documents.empty())
    fail(ErrorCode::kFormat, "{}: expected *.txt, *.md or *.jsonl with text, found none", path.string());
  return documents;
}

TokenShard tokenize(const Tokenizer& tokenizer, const std::vector<std::string>& documents,
                    const std::string& digest) {
  const auto start = tokenizer.prefix_ids().empty() ? tokenizer.eos_id() : tokenizer.prefix_ids().front();
  if (!start)
    fail(ErrorCode::kMismatch,
         "tokenizer.json: expected an end-of-text token such as <|endoftext|>, found none");
  TokenShard shard;
  shard.tokenizer_digest = digest;
  for (const std::string& text : documents) shard.append(*start, tokenizer.encode(text, false));
  return shard;
}

}  // namespace stem
