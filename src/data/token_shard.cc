#include "data/token_shard.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/digest.h"
#include "io/safetensors.h"

namespace stem {
namespace {

template <class T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string content_digest(const TokenShard& shard) {
  Sha256 sha;
  sha.update(bytes_of(shard.documents));
  sha.update(bytes_of(shard.tokens));
  sha.update(bytes_of(shard.loss_mask));
  return to_hex(sha.finish());
}

}  // namespace

void TokenShard::append(std::int32_t start, const std::vector<std::int32_t>& ids) {
  tokens.push_back(start);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  documents.push_back(size());
  if (!loss_mask.empty()) loss_mask.resize(tokens.size(), 1);
}

void TokenShard::append(std::int32_t start, const std::vector<std::int32_t>& ids,
                        const std::vector<std::uint8_t>& is_target, bool start_is_target) {
  require(is_target.size() == ids.size(), "one mask value per token");
  loss_mask.resize(tokens.size(), 1);  // documents without a mask came before
  loss_mask.push_back(start_is_target ? 1 : 0);
  loss_mask.insert(loss_mask.end(), is_target.begin(), is_target.end());
  append(start, ids);
}

void save_shard(const std::filesystem::path& path, const TokenShard& shard) {
  const auto n = shard.size(), d = static_cast<std::int64_t>(shard.documents.size());
  std::filesystem::path partial = path;
  partial += ".partial";
  std::vector<TensorSpec> specs{{"documents", DType::i64, {d}}, {"tokens", DType::i32, {n}}};
  if (!shard.loss_mask.empty()) specs.push_back({"loss_mask", DType::u8, {n}});
  SafetensorsWriter writer(partial, specs,
                           {{"format", "stem-tokens/1"},
                            {"content_sha256", content_digest(shard)},
                            {"tokenizer_sha256", shard.tokenizer_digest}});
  writer.write("documents", shard.documents.data(), static_cast<std::uint64_t>(d) * sizeof(std::int64_t));
  writer.write("tokens", shard.tokens.data(), static_cast<std::uint64_t>(n) * sizeof(std::int32_t));
  if (!shard.loss_mask.empty()) writer.write("loss_mask", shard.loss_mask.data(), shard.loss_mask.size());
  writer.close();
  std::filesystem::rename(partial, path);
}

TokenShard load_shard(const std::filesystem::path& path, std::int64_t vocab,
                      const std::string& tokenizer_digest) {
  const Safetensors file = Safetensors::open(path);
  const std::string name = path.string();
  TokenShard shard;
  const auto metadata = file.metadata();
  if (const auto found = metadata.find("tokenizer_sha256"); found != metadata.end())
    shard.tokenizer_digest = found->second;
  if (!tokenizer_digest.empty() && shard.tokenizer_digest != tokenizer_digest) {
    fail(ErrorCode::kMismatch,
         "{}: tokenizer_sha256: expected {} (this model's tokenizer), found {}: tokenize the text again",
         name, tokenizer_digest, shard.tokenizer_digest.empty() ? "none" : shard.tokenizer_digest);
  }
  const auto read = [&]<class T>(const char* tensor, DType dtype, std::vector<T>& into) {
    const TensorInfo& info = file.info(tensor);
    if (info.dtype != dtype || info.shape.size() != 1) {
      fail(ErrorCode::kFormat, "{}: {}: expected one dimension of {}, found {}", name, tensor,
           safetensors_name(dtype), info.described());
    }
    into.resize(static_cast<std::size_t>(info.shape[0]));
    if (!into.empty()) std::memcpy(into.data(), file.data(tensor), into.size() * sizeof(T));
  };
  read("documents", DType::i64, shard.documents);
  read("tokens", DType::i32, shard.tokens);
  if (file.has("loss_mask")) {
    read("loss_mask", DType::u8, shard.loss_mask);
    if (shard.loss_mask.size() != shard.tokens.size()) {
      fail(ErrorCode::kFormat, "{}: loss_mask: expected one value per token, {}, found {}", name,
           shard.tokens.size(), shard.loss_mask.size());
    }
    const auto bad = std::find_if(shard.loss_mask.begin(), shard.loss_mask.end(),
                                  [](std::uint8_t value) { return value > 1; });
    if (bad != shard.loss_mask.end()) {
      fail(ErrorCode::kFormat, "{}: loss_mask[{}]: expected 0 or 1, found {}", name,
           bad - shard.loss_mask.begin(), *bad);
    }
  }
  if (shard.documents.size() < 2 || shard.documents.front() != 0 || shard.documents.back() != shard.size() ||
      !std::is_sorted(shard.documents.begin(), shard.documents.end(), std::less_equal<>())) {
    fail(ErrorCode::kFormat, "{}: documents: expected ascending offsets from 0 to {} (at least one document)",
         name, shard.size());
  }
  for (std::size_t i = 0; i < shard.tokens.size(); ++i) {
    if (shard.tokens[i] < 0 || shard.tokens[i] >= vocab) {
      fail(ErrorCode::kMismatch, "{}: tokens[{}]: expected an id in [0, {}), found {}", name, i, vocab,
           shard.tokens[i]);
    }
  }
  if (const auto told = metadata.find("content_sha256"); told != metadata.end()) {
    if (const std::string found = content_digest(shard); found != told->second)
      fail(ErrorCode::kFormat, "{}: content_sha256: expected {}, found {}: the file was damaged or changed",
           name, told->second, found);
  }
  return shard;
}

}  // namespace stem
