// Loops of the hash grid. Points go in blocks: positions, rows and weights of a block are computed in loops that vectorize, then
// the table is read or written point by point, because gathers are no faster than loads.
#include "cpu/hash_grid_kernels.h"

namespace threedgen {
namespace {

constexpr int block_size = 64;

// The F values of a table row as one SIMD value; a row is aligned to its scalar only.
template <typename T, int features>
struct RowOf {
  typedef T type __attribute__((vector_size(features * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T>
struct RowOf<T, 1> {
  typedef T type;
};
template <typename T, int features>
using Row = typename RowOf<T, features>::type;

template <typename T>
struct Block {
  uint32_t row[8][block_size];  // corner c is at (c & 1, c >> 1 & 1, c >> 2) of the cell
  T weight[8][block_size];
  T fraction[3][block_size];
};

template <typename T, bool dense>
void locate(const HashGridLevel& level, const T* x, int count, Block<T>& block) {
  for (int i = 0; i < count; ++i) {
    const auto a = hash_grid_axis(x[3 * i], level.resolution);
    const auto b = hash_grid_axis(x[3 * i + 1], level.resolution);
    const auto c = hash_grid_axis(x[3 * i + 2], level.resolution);
    block.fraction[0][i] = a.fraction;
    block.fraction[1][i] = b.fraction;
    block.fraction[2][i] = c.fraction;
    for (uint32_t corner = 0; corner < 8; ++corner) {
      const uint32_t dx = corner & 1, dy = corner >> 1 & 1, dz = corner >> 2;
      block.row[corner][i] = hash_grid_row<dense>(level, a.cell + dx, b.cell + dy, c.cell + dz);
      block.weight[corner][i] = (dx ? a.fraction : 1 - a.fraction) * (dy ? b.fraction : 1 - b.fraction) * (dz ? c.fraction : 1 - c.fraction);
    }
  }
}

template <typename T>
void locate(const HashGridLevel& level, const T* x, int count, Block<T>& block) {
  if (level.dense)
    locate<T, true>(level, x, count, block);
  else
    locate<T, false>(level, x, count, block);
}

inline int block_count(int64_t begin, int64_t end) { return end - begin < block_size ? int(end - begin) : block_size; }

template <typename T, int features>
void forward(const HashGridLevel& level, const T* x, const T* table, T* out, int64_t stride, int64_t column, int64_t begin, int64_t end) {
  Block<T> block;
  const auto* rows = reinterpret_cast<const Row<T, features>*>(table) + level.offset;
  for (; begin < end; begin += block_size) {
    const int count = block_count(begin, end);
    locate(level, x + 3 * begin, count, block);
    for (int i = 0; i < count; ++i) {
      Row<T, features> sum = {};
      for (int corner = 0; corner < 8; ++corner) sum += block.weight[corner][i] * rows[block.row[corner][i]];
      *reinterpret_cast<Row<T, features>*>(out + (begin + i) * stride + column) = sum;
    }
  }
}

template <typename T, int features>
void backward_table(const HashGridLevel& level, const T* x, const T* grad, T* grad_table, int64_t stride, int64_t column, int64_t begin, int64_t end) {
  Block<T> block;
  auto* rows = reinterpret_cast<Row<T, features>*>(grad_table) + level.offset;
  for (; begin < end; begin += block_size) {
    const int count = block_count(begin, end);
    locate(level, x + 3 * begin, count, block);
    for (int i = 0; i < count; ++i) {
      // Lines of the gradient are a stride apart and read once: fetch those of the next block (a prefetch past the end is ignored).
      __builtin_prefetch(grad + (begin + i + block_size) * stride + column);
      const auto g = *reinterpret_cast<const Row<T, features>*>(grad + (begin + i) * stride + column);
      for (int corner = 0; corner < 8; ++corner) rows[block.row[corner][i]] += block.weight[corner][i] * g;
    }
  }
}

template <typename T, int features>
void backward_x(const HashGridLevel& level, const T* x, const T* table, const T* grad, T* grad_x, int64_t stride, int64_t column, int64_t begin, int64_t end) {
  Block<T> block;
  T dot[8][block_size];  // <gradient, entry> per corner
  const T* rows = table + level.offset * features;
  for (; begin < end; begin += block_size) {
    const int count = block_count(begin, end);
    locate(level, x + 3 * begin, count, block);
    for (int i = 0; i < count; ++i) {
      const T* g = grad + (begin + i) * stride + column;
      for (int corner = 0; corner < 8; ++corner) {
        const T* entry = rows + int64_t(block.row[corner][i]) * features;
        T sum = 0;
        for (int f = 0; f < features; ++f) sum += g[f] * entry[f];
        dot[corner][i] = sum;
      }
    }
    const T scale = T(level.resolution);
    for (int i = 0; i < count; ++i) {
      const T a1 = block.fraction[0][i], b1 = block.fraction[1][i], c1 = block.fraction[2][i];
      const T a0 = 1 - a1, b0 = 1 - b1, c0 = 1 - c1;
      const T along_x = (dot[1][i] - dot[0][i]) * b0 * c0 + (dot[3][i] - dot[2][i]) * b1 * c0 + (dot[5][i] - dot[4][i]) * b0 * c1 + (dot[7][i] - dot[6][i]) * b1 * c1;
      const T along_y = (dot[2][i] - dot[0][i]) * a0 * c0 + (dot[3][i] - dot[1][i]) * a1 * c0 + (dot[6][i] - dot[4][i]) * a0 * c1 + (dot[7][i] - dot[5][i]) * a1 * c1;
      const T along_z = (dot[4][i] - dot[0][i]) * a0 * b0 + (dot[5][i] - dot[1][i]) * a1 * b0 + (dot[6][i] - dot[2][i]) * a0 * b1 + (dot[7][i] - dot[3][i]) * a1 * b1;
      const T* point = x + 3 * (begin + i);
      T* target = grad_x + 3 * (begin + i);
      // Outside [0,1] the encoding is constant.
      target[0] += point[0] < 0 || point[0] > 1 ? T(0) : scale * along_x;
      target[1] += point[1] < 0 || point[1] > 1 ? T(0) : scale * along_y;
      target[2] += point[2] < 0 || point[2] > 1 ? T(0) : scale * along_z;
    }
  }
}

template <typename T, int features>
constexpr HashGridKernelsOf<T> kernels = {forward<T, features>, backward_table<T, features>, backward_x<T, features>};

}  // namespace

namespace THREEDGEN_ISA {
const HashGridKernels hash_grid_kernels = {
    {kernels<float, 1>, kernels<float, 2>, kernels<float, 4>, kernels<float, 8>},
    {kernels<double, 1>, kernels<double, 2>, kernels<double, 4>, kernels<double, 8>},
};
}

}  // namespace threedgen
