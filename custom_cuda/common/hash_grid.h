// One level of a multiresolution hash grid (Müller et al. 2022, arXiv 2201.05989), trilinear.
//
// A level of resolution r has (r+1)^3 vertices over the unit cube. Where its rows suffice they are stored densely, x fastest;
// otherwise a vertex goes to row (x ^ y*p1 ^ z*p2) mod rows, and rows is a power of two.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace threedgen {

struct HashGridLevel {
  int64_t offset;       // first row in the table
  uint32_t resolution;  // cells per axis
  uint32_t rows;
  bool dense;
};

// The cell and the position inside it along one axis. A coordinate outside [0,1] is moved to the border; NaN stays NaN in the
// fraction (so it shows in the output) and gets cell 0 (so that no read is out of bounds).
template <typename T>
struct AxisCell {
  uint32_t cell;
  T fraction;
};

template <typename T>
HOST_DEVICE AxisCell<T> hash_grid_axis(T x, uint32_t resolution) {
  const T clamped = x < T(0) ? T(0) : (x > T(1) ? T(1) : x);
  const T position = clamped * T(resolution);
  int32_t cell = position > T(0) ? int32_t(position) : 0;
  const int32_t last = int32_t(resolution) - 1;
  cell = cell < last ? cell : last;
  return {uint32_t(cell), position - T(cell)};
}

template <bool dense>
HOST_DEVICE uint32_t hash_grid_row(const HashGridLevel& level, uint32_t x, uint32_t y, uint32_t z) {
  if constexpr (dense) {
    const uint32_t side = level.resolution + 1;
    return (z * side + y) * side + x;
  } else {
    return (x ^ (y * 2654435761u) ^ (z * 805459861u)) & (level.rows - 1);
  }
}

}  // namespace threedgen
