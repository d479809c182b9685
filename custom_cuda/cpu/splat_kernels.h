#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace threedgen {

constexpr int splat_lanes = 8;  // pixels of a row that are computed together

// Gaussians of all views, and the tile to draw: a square of `tile` pixels with its upper left at (x, y), cut to the image.
template <typename T>
struct SplatTile {
  const T *mean, *conic, *opacity, *features, *extent;  // [.,2], [.,3], [.], [.,C], [.,2]
  const int32_t* entries;                               // of this tile, nearest first
  int64_t count, channels;
  int64_t x, y, height, width;
  int tile;
};

// Pixels of the view that the tile lies in: [H,W,C], [H,W], [H,W].
template <typename T>
struct SplatImage {
  T *out, *transmittance;
  int32_t* last;  // entries up to the last one that shows, 0 where none does
};
template <typename T>
struct SplatGradient {
  const T *grad_out, *grad_transmittance, *transmittance;
  const int32_t* last;
  T* grad_entries;  // [count, 6 + C]: to mean (2), conic (3), opacity, features
};

template <typename T>
struct SplatKernelsOf {
  // `scratch` holds splat_scratch(tile, C) values, aligned to 64 bytes.
  void (*forward)(const SplatTile<T>& tile, const SplatImage<T>& image, T* scratch);
  void (*backward)(const SplatTile<T>& tile, const SplatGradient<T>& gradient, T* scratch);
};

inline int64_t splat_scratch(int64_t tile, int64_t channels) { return tile * tile * (channels + 3) + splat_lanes * channels; }

struct SplatKernels {
  SplatKernelsOf<float> f32;
  SplatKernelsOf<double> f64;
};

THREEDGEN_DECLARE_VARIANTS(SplatKernels, splat_kernels)

}  // namespace threedgen
