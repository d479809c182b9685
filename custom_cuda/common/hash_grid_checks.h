// From the operator's arguments to levels, with the checks that keep every row inside the table. For host code of both devices.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "common/hash_grid.h"

namespace threedgen {

inline std::vector<HashGridLevel> hash_grid_levels(
    const at::Tensor& x, const at::Tensor& table, at::IntArrayRef resolutions, at::IntArrayRef offsets) {
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(1) == 3, "hash_grid: x must be [N,3], got ", x.sizes());
  TORCH_CHECK_VALUE(table.dim() == 2, "hash_grid: table must be [rows,F], got ", table.sizes());
  const int64_t features = table.size(1);
  TORCH_CHECK_VALUE(features == 1 || features == 2 || features == 4 || features == 8, "hash_grid: F must be 1, 2, 4 or 8, got ", features);
  TORCH_CHECK_VALUE(x.scalar_type() == table.scalar_type(), "hash_grid: x is ", x.scalar_type(), " but table is ", table.scalar_type());
  TORCH_CHECK_VALUE(offsets.size() == resolutions.size() + 1, "hash_grid: offsets must have one entry more than resolutions");
  TORCH_CHECK_VALUE(offsets.front() == 0 && offsets.back() == table.size(0), "hash_grid: offsets must go from 0 to the ", table.size(0), " rows of the table");
  std::vector<HashGridLevel> levels;
  for (size_t l = 0; l < resolutions.size(); ++l) {
    const int64_t rows = offsets[l + 1] - offsets[l], side = resolutions[l] + 1;
    TORCH_CHECK_VALUE(resolutions[l] >= 1 && resolutions[l] < (1 << 20), "hash_grid: resolution ", resolutions[l], " is not in 1 ... 2^20 - 1");
    TORCH_CHECK_VALUE(rows > 0 && rows <= (int64_t(1) << 31), "hash_grid: level ", l, " has ", rows, " rows, not 1 ... 2^31");
    const bool dense = side * side * side <= rows;
    TORCH_CHECK_VALUE(dense || (rows & (rows - 1)) == 0, "hash_grid: level ", l, " is hashed, so its ", rows, " rows must be a power of two");
    levels.push_back({offsets[l], uint32_t(resolutions[l]), uint32_t(rows), dense});
  }
  return levels;
}

inline void hash_grid_backward_checks(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& table, int64_t levels) {
  const int64_t width = levels * table.size(1);
  TORCH_CHECK_VALUE(grad.dim() == 2 && grad.size(0) == x.size(0) && grad.size(1) == width, "hash_grid_backward: grad must be [", x.size(0), ",", width,
                    "], got ", grad.sizes());
  TORCH_CHECK_VALUE(grad.scalar_type() == x.scalar_type(), "hash_grid_backward: grad is ", grad.scalar_type(), " but x is ", x.scalar_type());
}

}  // namespace threedgen
