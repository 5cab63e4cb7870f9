// The product on AMX tiles (amx_tiles.h). b is packed beforehand; a is read in place where its rows are
// contiguous in k. k runs in blocks of kc so that a panel of a stays in the first-level cache.
#include "kernels/cpu/gemm_amx.h"

#include <vector>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/families.h"

#if STEM_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stem::cpu {

#if STEM_HAS_AMX

STEM_AMX_BEGIN

namespace {

using namespace amx;

constexpr std::int64_t kColumns = 1024;  // of c at a time: their part of b, kc deep, takes 512 kB
// Sums apart from c: rows 4 kB from one another would share the same few cache lines.
constexpr std::int64_t kSumStride = kColumns + kBlock;
constexpr std::int64_t kNear = 1 << 19;     // bytes of b that stay in the second-level cache
constexpr std::int64_t kRowsPerTask = 128;  // rows of c of one task, a multiple of kBlock

struct Product {
  Out c;
  In a;
  bool transpose_a;
  const bf16* b;  // packed
  std::int64_t rows, cols, depth;
  std::int64_t kc;         // k of a block
  std::int64_t task_rows;  // rows of c of a task
  In add;
};

/// Towards the second-level cache: the tiles of one step.
void prefetch(const bf16* tiles) {
  for (int i = 0; i < 32; ++i) _mm_prefetch(reinterpret_cast<const char*>(tiles + i * 32), _MM_HINT_T1);
}

/// Rows [first, first + task_rows) of c.
void multiply_rows(const Product& p, std::int64_t first) {
  thread_local Buffer panel_memory, sum_memory;
  const std::int64_t panels = blocks(std::min(p.task_rows, p.rows - first));
  const std::int64_t padded_depth = blocks(p.depth) * kBlock, column = column_values(p.depth);
  // k comes in blocks, and every block adds to the sums: in c if that is f32, else apart until the last one.
  const bool apart = p.c.dtype != DType::f32 && p.depth > p.kc;
  float* const sums = apart ? thread_memory<float>(sum_memory, p.task_rows * kSumStride) : nullptr;
  const In sums_view{sums, DType::f32, panels * kBlock, kColumns, kSumStride};
  // A block's sums are delivered while the tile unit is at the next one.
  alignas(64) float scratch[2][kBlock * kBlock];
  int turn = 0;
  Delivery pending;
  // The first panel brings b from afar, where b is too large to be near.
  const bool far = padded_depth * p.cols * 2 > kNear;
  const bf16* next = nullptr;
  const auto deliver = [&](std::int64_t step, std::int64_t steps) {
    if (next != nullptr) prefetch(next + step * 2 * kTile);
    if (pending.sums != nullptr) pending.rows(kBlock * step / steps, kBlock * (step + 1) / steps);
  };
  const std::int64_t direct =
      p.transpose_a || p.depth % kBlock != 0 ? 0 : std::min(panels, (p.rows - first) / kBlock);
  bf16* const packed = direct == panels ? nullptr : thread_memory<bf16>(panel_memory, panels * kBlock * p.kc);

  const auto panel = [&](std::int64_t i, std::int64_t k) -> Panel {
    if (i >= direct)
      return {reinterpret_cast<const char*>(packed + i * kBlock * p.kc), 64, kTile * 2, 2 * kTile * 2};
    const std::int64_t bytes = p.a.stride * 2;
    return {static_cast<const char*>(p.a.data) + (first + i * kBlock) * bytes + k * 2, bytes, 16 * bytes, 64};
  };
  for (std::int64_t left = 0; left < p.cols; left += kColumns) {
    const std::int64_t right = std::min(left + kColumns, p.cols);
    for (std::int64_t k = 0; k < padded_depth; k += p.kc) {
      const std::int64_t depth = std::min(p.kc, padded_depth - k);
      // Row after row of a transposed a: whole lines of it, not a narrow column at a time.
      for (std::int64_t step = 0; step < depth; step += kBlock) {
        for (std::int64_t i = direct; i < panels; ++i)
          pack_rows(packed + i * kBlock * p.kc + step * kBlock, p.a, p.transpose_a, first + i * kBlock,
                    k + step);
      }
      const bool starts = k == 0, ends = k + depth == padded_depth;
      for (std::int64_t i = 0; i < panels; ++i) {
        const Panel a = panel(i, k);
        const std::int64_t m = first + i * kBlock, count = std::min(kBlock, p.rows - m);
        for (std::int64_t n = left; n < right; n += kBlock) {
          const std::int64_t cols = std::min(kBlock, p.cols - n);
          const bf16* const b = p.b + n / kBlock * column + k * kBlock;
          next = far && i == 0 && n + kBlock < right ? b + column : nullptr;
          float* const block = scratch[turn ^= 1];
          multiply(block, kBlock, {}, a, b, depth, deliver);
          pending = {};
          if (count == kBlock && cols == kBlock) {
            const Block to = block_of(p.c, m, n),
                        sum = apart ? block_of(sums_view, i * kBlock, n - left) : to;
            const Block add = !starts ? sum : p.add ? block_of(p.add, m, n) : Block{};
            pending = {block, ends ? to : sum, add};
          } else if (!apart) {
            write(p.c, m, n, block, kBlock, count, cols, starts ? p.add : In(p.c));
          } else {
            float* const at = sums + i * kBlock * kSumStride + n - left;
            for (std::int64_t r = 0; r < kBlock; ++r) {
              for (std::int64_t c = 0; c < kBlock; ++c)
                at[r * kSumStride + c] = block[r * kBlock + c] + (starts ? 0.0f : at[r * kSumStride + c]);
            }
            if (ends) write(p.c, m, n, at, kSumStride, count, cols, p.add);
          }
        }
      }
    }
  }
  next = nullptr;
  deliver(0, 1);
}

// b is packed in parts, in the order in which it lies in memory.
std::int64_t pack_parts(const In& b) {
  return blocks(b.rows);
}

void pack_part(bf16* to, const In& b, bool transposed, std::int64_t part) {
  const std::int64_t column_size = column_values(transposed ? b.cols : b.rows);
  for (std::int64_t other = 0; other < blocks(b.cols); ++other) {
    const std::int64_t step = transposed ? other : part, column = transposed ? part : other;
    pack_columns(to + column * column_size + step * 2 * kTile, b, transposed, step * kBlock, column * kBlock);
  }
}

/// A part of the packing, or a task of the multiplying, of one product.
struct Work {
  std::int32_t product, part;
};

/// All products: every thread packs its share of all b (unless `packed` is that of the only product), then
/// multiplies.
void multiply_all(std::span<const GemmCall> calls, const bf16* packed) {
  thread_local std::vector<Product> product_store;
  thread_local std::vector<Work> pack_store, task_store;
  thread_local Buffer memory;
  product_store.clear(), pack_store.clear(), task_store.clear();
  std::int64_t values = 0, rows = 0, work = 0;
  for (const GemmCall& g : calls) {
    rows += g.c.rows;
    work += g.c.size() * (g.transpose_a ? g.a.rows : g.a.cols);
    if (packed == nullptr)
      values += static_cast<std::int64_t>(amx_packed_bytes(g.b, g.transpose_b) / sizeof(bf16));
  }
  bf16* next = thread_memory<bf16>(memory, values);
  // Every thread should get several tasks, so that a core that lags behind does not hold up the others.
  std::int64_t task_rows = kRowsPerTask;
  while (task_rows > 2 * kBlock && rows < task_rows * cpu_threads() * 4) task_rows -= kBlock;
  for (const GemmCall& g : calls) {
    const auto product = static_cast<std::int32_t>(product_store.size());
    const std::int64_t depth = g.transpose_a ? g.a.rows : g.a.cols;
    product_store.push_back({g.c, g.a, g.transpose_a, packed == nullptr ? next : packed, g.c.rows, g.c.cols,
                             depth, depth_block(depth), task_rows, g.add});
    if (packed == nullptr) {
      next += amx_packed_bytes(g.b, g.transpose_b) / sizeof(bf16);
      for (std::int32_t i = 0; i < pack_parts(g.b); ++i) pack_store.push_back({product, i});
    }
    for (std::int32_t i = 0; i * task_rows < g.c.rows; ++i) task_store.push_back({product, i});
  }
  const Product* const products = product_store.data();
  const Work *const packs = pack_store.data(), *const tasks = task_store.data();
  const auto pack_count = static_cast<std::int64_t>(pack_store.size()),
             task_count = static_cast<std::int64_t>(task_store.size());
#pragma omp parallel if (work > kParallelElements * 64)
  {
    static constexpr TileConfig kTiles{};
    _tile_loadconfig(&kTiles);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < pack_count; ++i) {
      const GemmCall& g = calls[static_cast<std::size_t>(packs[i].product)];
      pack_part(const_cast<bf16*>(products[packs[i].product].b), g.b, g.transpose_b, packs[i].part);
    }
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t i = 0; i < task_count; ++i)
      multiply_rows(products[tasks[i].product], tasks[i].part * task_rows);
    _tile_release();
  }
}

bool request_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bw = 1u << 30;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0 || (b & kAvx512Bw) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & (1u << 5)) == 0) return false;  // AVX512-BF16
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool amx_supported() {
  static const bool supported = request_tiles();
  return supported;
}

std::size_t amx_packed_bytes(In b, bool transpose_b) {
  const std::int64_t depth = transpose_b ? b.cols : b.rows, cols = transpose_b ? b.rows : b.cols;
  return static_cast<std::size_t>(column_values(depth) * blocks(cols)) * sizeof(bf16);
}

void amx_pack(void* to, In b, bool transpose_b) {
#pragma omp parallel for schedule(static) if (b.size() > kParallelElements)
  for (std::int64_t i = 0; i < pack_parts(b); ++i) pack_part(static_cast<bf16*>(to), b, transpose_b, i);
}

void amx_gemm(Out c, In a, bool transpose_a, In b, bool transpose_b, In add, const void* packed) {
  const GemmCall call{c, a, transpose_a, b, transpose_b, add};
  multiply_all({&call, 1}, static_cast<const bf16*>(packed));
}

void amx_gemm_group(std::span<const GemmCall> calls) {
  multiply_all(calls, nullptr);
}

STEM_AMX_END

#else

bool amx_supported() {
  return false;
}
std::size_t amx_packed_bytes(In, bool) {
  return 0;
}
void amx_pack(void*, In, bool) {
  require(false, "amx_pack without AMX");
}
void amx_gemm(Out, In, bool, In, bool, In, const void*) {
  require(false, "amx_gemm without AMX");
}
void amx_gemm_group(std::span<const GemmCall>) {
  require(false, "amx_gemm_group without AMX");
}

#endif

}  // namespace stem::cpu
