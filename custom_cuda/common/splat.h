// Alpha of a projected Gaussian at a pixel, the rules that end a pixel, and the pixels a Gaussian may reach.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/macros.h"

namespace threedgen {

// threedgen/ops/splat.py says the same numbers.
constexpr double splat_least_alpha = 1.0 / 255;     // fainter contributions count as none
constexpr double splat_most_alpha = 0.999;          // so that light behind can be recovered from light in front
constexpr double splat_least_transmittance = 1e-4;  // a pixel ends in front of the Gaussian that would bring it down to this

// First and last column and row whose centres lie in the box mean +- extent, cut to the image; first > last where there are none.
struct PixelBox {
  int64_t x0, x1, y0, y1;
  HOST_DEVICE_MEMBER bool empty() const { return x0 > x1 || y0 > y1; }
};

HOST_DEVICE int64_t first_pixel(double edge) { return edge > 0.5 ? int64_t(ceil(edge - 0.5)) : 0; }
HOST_DEVICE int64_t last_pixel(double edge, int64_t count) { return edge < double(count) - 0.5 ? int64_t(floor(edge - 0.5)) : count - 1; }

// In double precision on every device, so that all agree on the box. Extents that are not positive give no pixel.
template <typename T>
HOST_DEVICE PixelBox pixel_box(const T* mean, const T* extent, int64_t height, int64_t width) {
  const double mx = mean[0], my = mean[1], ex = extent[0], ey = extent[1];
  // Written so that a NaN gives none either.
  if (!(ex > 0 && ey > 0 && mx + ex > 0 && mx - ex < double(width) && my + ey > 0 && my - ey < double(height))) return {0, -1, 0, -1};
  return {first_pixel(mx - ex), last_pixel(mx + ex, width), first_pixel(my - ey), last_pixel(my + ey, height)};
}

}  // namespace threedgen
