#include "convert/import.h"

#include "core/error.h"
#include "io/file.h"

namespace stem {

ImportedModel import_model(const std::filesystem::path& path, const std::filesystem::path& tokenizer) {
  const bool directory = std::filesystem::is_directory(path);
  if (!directory && !std::filesystem::exists(path))
    fail(ErrorCode::kNotFound,
         "{}: expected a GGUF file, a Hugging Face directory or a llama2.c checkpoint, found nothing",
         path.string());
  const bool gguf = !directory && MappedFile(path).text().starts_with("GGUF");
  if (!directory && !gguf) {
    if (tokenizer.empty())
      fail(
          ErrorCode::kUsage,
          "{}: expected a GGUF file, a directory, or --tokenizer beside a llama2.c checkpoint, found neither",
          path.string());
    return import_llama2c(path, tokenizer);
  }
  if (!tokenizer.empty())
    fail(ErrorCode::kUsage, "--tokenizer: expected only beside a llama2.c checkpoint: {} brings its own",
         path.string());
  return gguf ? import_gguf(path) : import_hugging_face(path);
}

}  // namespace stem
