// Marching a ray through an occupancy grid over the cube [-1,1]^3.
//
// Sample k of a ray lies at t = near + (k + jitter) * step. It is kept where t < far and its cell is occupied. These decisions are
// made with single roundings in a fixed order, so that the CPU, CUDA and torch keep the same samples.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/macros.h"

namespace threedgen {

#if defined(__CUDA_ARCH__)
HOST_DEVICE float strict_multiply(float a, float b) { return __fmul_rn(a, b); }
HOST_DEVICE double strict_multiply(double a, double b) { return __dmul_rn(a, b); }
HOST_DEVICE float strict_add(float a, float b) { return __fadd_rn(a, b); }
HOST_DEVICE double strict_add(double a, double b) { return __dadd_rn(a, b); }
#else  // the file is compiled without contraction
template <typename T>
HOST_DEVICE T strict_multiply(T a, T b) { return a * b; }
template <typename T>
HOST_DEVICE T strict_add(T a, T b) { return a + b; }
#endif

constexpr uint32_t march_block = 8;  // cells along an edge of the blocks that are skipped at once

// Occupancy of cells [G,G,G] and of blocks of cells [B,B,B], x slowest.
struct MarchGrid {
  const bool* cells;
  const bool* blocks;
  uint32_t side;
  uint32_t block_side;
};

template <typename T>
struct MarchRay {
  T origin[3], direction[3];
  T near, far, jitter, step;

  HOST_DEVICE_MEMBER T distance(int64_t k) const { return strict_add(near, strict_multiply(strict_add(T(k), jitter), step)); }
};

// The part of the ray inside the cube grown by `margin`; empty (begin >= end, or NaN) where it misses. The bound on the end
// changes nothing for unit directions, and ends the march for others.
template <typename T>
HOST_DEVICE void march_clip(const MarchRay<T>& ray, T margin, T& begin, T& end) {
  begin = ray.near;
  const T half = T(1) + margin;
  const T* o = ray.origin;
  const T reach = sqrt(o[0] * o[0] + o[1] * o[1] + o[2] * o[2]) + T(1.7321) + margin;
  end = ray.far > reach ? reach : ray.far;  // in this order NaN stays
  for (int axis = 0; axis < 3; ++axis) {
    const T d = ray.direction[axis];
    if (d == T(0)) {
      if (!(o[axis] >= -half && o[axis] <= half)) end = begin;
      continue;
    }
    const T a = (-half - o[axis]) / d, b = (half - o[axis]) / d;
    const T enter = a < b ? a : b, leave = a < b ? b : a;
    begin = enter > begin ? enter : begin;
    end = leave < end ? leave : end;
  }
}

// Calls keep(t) for each sample in order.
template <typename T, typename Keep>
HOST_DEVICE void march_ray(const MarchRay<T>& ray, const MarchGrid& grid, const Keep& keep) {
  const T scale = T(0.5) * T(grid.side), cell_size = T(2) / T(grid.side);
  T begin, end;
  march_clip(ray, T(1e-3), begin, end);
  if (!(begin < end)) return;
  // Skips stop this far before a border, which is more than the rounding of a position.
  const T margin = T(1e-3) * cell_size + T(2e-6) * (T(1) + end);
  const T first = (begin - ray.near) / ray.step - ray.jitter - T(1);
  if (!(first < T(1 << 30))) return;
  const T inverse[3] = {T(1) / ray.direction[0], T(1) / ray.direction[1], T(1) / ray.direction[2]}, inverse_step = T(1) / ray.step;
  for (int64_t k = first > T(0) ? int64_t(first) : 0;;) {
    const T t = ray.distance(k);
    if (!(t < end)) return;
    uint32_t cell[3];
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      const T p = strict_add(ray.origin[axis], strict_multiply(ray.direction[axis], t));
      const T c = strict_multiply(strict_add(p, T(1)), scale);
      inside = inside && c >= T(0) && c < T(grid.side);
      cell[axis] = inside ? uint32_t(int32_t(c)) : 0;
    }
    if (!inside) {
      ++k;
      continue;
    }
    const uint32_t x = cell[0] / march_block, y = cell[1] / march_block, z = cell[2] / march_block;
    if (grid.blocks[(x * grid.block_side + y) * grid.block_side + z]) {
      if (grid.cells[(size_t(cell[0]) * grid.side + cell[1]) * grid.side + cell[2]]) keep(t);
      ++k;
      continue;
    }
    T leave = end;
    for (int axis = 0; axis < 3; ++axis) {
      const T d = ray.direction[axis];
      if (d == T(0)) continue;
      const uint32_t border = (cell[axis] / march_block + (d > T(0) ? 1 : 0)) * march_block;
      const T position = T(border) * cell_size - T(1) - (d > T(0) ? margin : -margin);
      const T until = (position - ray.origin[axis]) * inverse[axis];
      leave = until < leave ? until : leave;
    }
    const int64_t next = int64_t((leave - ray.near) * inverse_step - ray.jitter) + 1;  // the first sample behind `leave`
    k = next > k ? next : k + 1;
  }
}

}  // namespace threedgen
