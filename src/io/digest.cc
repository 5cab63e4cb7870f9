#include "io/digest.h"

#include <openssl/evp.h>
#include <sys/random.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "io/file.h"

namespace stem {
namespace {

constexpr char kHex[] = "0123456789abcdef";

int nibble(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The codes are part of the digest, so the enumerators must not move.
static_assert(static_cast<int>(DType::f32) == 0 && static_cast<int>(DType::bf16) == 1 &&
              static_cast<int>(DType::f64) == 2 && static_cast<int>(DType::f16) == 3 &&
              static_cast<int>(DType::i64) == 4 && static_cast<int>(DType::i32) == 5 &&
              static_cast<int>(DType::u16) == 6 && static_cast<int>(DType::u8) == 7 &&
              static_cast<int>(DType::i8) == 8);

}  // namespace

void Sha256::Free::operator()(void* context) const {
  EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context));
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  require(context_ != nullptr &&
              EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()), EVP_sha256(), nullptr) == 1,
          "libcrypto has SHA-256");
}

void Sha256::update(const void* bytes, std::size_t count) {
  require(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes, count) == 1, "SHA-256 update");
}

Digest Sha256::finish() {
  Digest digest{};
  auto* context = static_cast<EVP_MD_CTX*>(context_.get());
  require(EVP_DigestFinal_ex(context, digest.data(), nullptr) == 1, "SHA-256 final");
  require(EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1, "SHA-256 restart");
  return digest;
}

Digest sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

Digest sha256_file(const std::filesystem::path& path, std::uint64_t* bytes) {
  const MappedFile file(path);
  std::vector<char> piece(std::size_t{1} << 20);
  Sha256 hash;
  for (std::uint64_t at = 0; at < file.size();) {
    const std::uint64_t count = std::min<std::uint64_t>(piece.size(), file.size() - at);
    file.read_at(at, piece.data(), count);  // pread: a file that is cut meanwhile is an error, not a signal
    hash.update(piece.data(), count);
    at += count;
  }
  if (bytes != nullptr) *bytes = file.size();
  return hash.finish();
}

std::string to_hex(const Digest& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) {
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  return text;
}

bool from_hex(std::string_view text, Digest* digest) {
  if (text.size() != 2 * digest->size()) return false;
  for (std::size_t i = 0; i < digest->size(); ++i) {
    const int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    (*digest)[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return true;
}

Uuid random_uuid() {
  Uuid uuid{};
  if (::getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    fail(ErrorCode::kIo, "the system's random generator gave no bytes");
  }
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);  // version 4
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);  // the RFC's variant
  return uuid;
}

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kHex[uuid[i] >> 4];
    text += kHex[uuid[i] & 15];
  }
  return text;
}

bool parse_uuid(std::string_view text, Uuid* uuid) {
  if (text.size() != 36) return false;
  std::size_t at = 0;
  for (std::size_t i = 0; i < uuid->size(); ++i) {
    if ((i == 4 || i == 6 || i == 8 || i == 10) && text[at++] != '-') return false;
    const int high = nibble(text[at]), low = nibble(text[at + 1]);
    if (high < 0 || low < 0) return false;
    (*uuid)[i] = static_cast<std::uint8_t>(high << 4 | low);
    at += 2;
  }
  return true;
}

Digest row_leaf(const Uuid& model, std::uint32_t layer, std::uint32_t token, DType dtype,
                std::string_view row) {
  Sha256 hash;
  const std::uint8_t leaf = 0;
  hash.update(&leaf, 1);
  hash.update("stem-row-v1");
  hash.update(model.data(), model.size());
  std::array<std::uint8_t, 9> address{};
  for (std::size_t i = 0; i < 4; ++i) {
    address[i] = static_cast<std::uint8_t>(layer >> (8 * i));
    address[4 + i] = static_cast<std::uint8_t>(token >> (8 * i));
  }
  address[8] = static_cast<std::uint8_t>(dtype);
  hash.update(address.data(), address.size());
  hash.update(row);
  return hash.finish();
}

}  // namespace stem
