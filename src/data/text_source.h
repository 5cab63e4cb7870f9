// Documents from files that users have: plain text, JSONL, folders of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/token_shard.h"
#include "text/tokenizer.h"

namespace stem {

struct TextOptions {
  std::string jsonl_field = "text";  ///< member of each JSONL line that holds the document
  std::uint64_t max_file_bytes = std::uint64_t{8} << 30;
};

/// Documents of `path`: a .jsonl file gives one a line; another file is one document, or several when it
/// holds
/// "<|endoftext|>" between them; a folder gives those of its *.txt, *.md and *.jsonl files, in order of their
/// names, recursively. Throws kNotFound (missing), kFormat naming file and byte or line: empty, binary (a NUL
/// byte), not UTF-8, a line that is no object with that field.
std::vector<std::string> read_documents(const std::filesystem::path& path, const TextOptions& options = {});

/// Tokenises documents into a shard; every document starts with the tokenizer's end-of-text token.
/// Throws kMismatch when the tokenizer has none.
TokenShard tokenize(const Tokenizer& tokenizer, const std::vector<std::string>& documents,
                    const std::string& digest);

}  // namespace stem
