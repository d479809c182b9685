#pragma once

#include <cstdint>

#include "common/hash_grid.h"
#include "cpu/isa.h"

namespace threedgen {

// x [N,3]; table [rows,F]; encodings and their gradients are rows of `stride` = L*F values, of which level l owns F from l*F.
template <typename T>
struct HashGridKernelsOf {
  // out[begin:end, column:column+F] = level's interpolation of the table
  void (*forward)(const HashGridLevel& level, const T* x, const T* table, T* out, int64_t stride, int64_t column, int64_t begin, int64_t end);
  // grad_table += gradient through one level of points begin..end
  void (*backward_table)(const HashGridLevel& level, const T* x, const T* grad, T* grad_table, int64_t stride, int64_t column, int64_t begin, int64_t end);
  // grad_x[begin:end] += gradient through one level
  void (*backward_x)(const HashGridLevel& level, const T* x, const T* table, const T* grad, T* grad_x, int64_t stride, int64_t column, int64_t begin, int64_t end);
};

// One entry per number of features: 1, 2, 4, 8.
struct HashGridKernels {
  HashGridKernelsOf<float> f32[4];
  HashGridKernelsOf<double> f64[4];
};

THREEDGEN_DECLARE_VARIANTS(HashGridKernels, hash_grid_kernels)

}  // namespace threedgen
