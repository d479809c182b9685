// A Gaussian with covariance A A^T as a pinhole camera sees it (EWA projection), and the gradient to its mean and to A.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/macros.h"

namespace threedgen {

// threedgen/ops/project_gaussians.py says the same numbers.
constexpr double gaussian_blur = 0.3;      // variance in squared pixels that every Gaussian gets
constexpr double gaussian_nearest = 0.05;  // depth from which on Gaussians are drawn
constexpr double gaussian_beyond = 1.3;    // of the half image: up to there the slope of the projection is followed
constexpr double gaussian_least_share = 1e-12;

// A camera: rows right, down, forward of its axes, and its centre, all in the world; focal length and image size in pixels.
template <typename T>
struct PinholeView {
  const T *turn, *eye;
  T focal, width, height;
};

template <typename T>
HOST_DEVICE T dot3(const T* a, const T* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// Everything that both directions need; names as in project_gaussians.py.
template <typename T>
struct GaussianInView {
  T x, y, z, slope_x, slope_y, scale;
  bool drawn, inside_x, inside_y;
  T across[3], down[3];              // rows of the projection's Jacobian, in world axes
  T spread_across[3], spread_down[3];  // the same in the Gaussian's own axes
  T xx, xy, yy, sharp, determinant, share;
};

template <typename T>
HOST_DEVICE T clamped(T value, T limit) {
  return value < -limit ? -limit : value > limit ? limit : value;
}

template <typename T>
HOST_DEVICE GaussianInView<T> gaussian_in_view(const T* mean, const T* axes, const PinholeView<T>& view) {
  GaussianInView<T> g;
  const T offset[3] = {mean[0] - view.eye[0], mean[1] - view.eye[1], mean[2] - view.eye[2]};
  const T *right = view.turn, *down = view.turn + 3, *forward = view.turn + 6;
  g.x = dot3(right, offset), g.y = dot3(down, offset), g.z = dot3(forward, offset);
  g.drawn = g.z > T(gaussian_nearest);
  if (!g.drawn) g.z = 1;
  const T limit_x = T(gaussian_beyond) * view.width / (2 * view.focal), limit_y = T(gaussian_beyond) * view.height / (2 * view.focal);
  const T x = g.x / g.z, y = g.y / g.z;
  g.inside_x = x >= -limit_x && x <= limit_x, g.inside_y = y >= -limit_y && y <= limit_y;
  g.slope_x = clamped(x, limit_x), g.slope_y = clamped(y, limit_y);
  g.scale = view.focal / g.z;
  for (int i = 0; i < 3; ++i) {
    g.across[i] = g.scale * (right[i] - g.slope_x * forward[i]);
    g.down[i] = g.scale * (down[i] - g.slope_y * forward[i]);
  }
  for (int k = 0; k < 3; ++k) {
    g.spread_across[k] = g.across[0] * axes[k] + g.across[1] * axes[3 + k] + g.across[2] * axes[6 + k];
    g.spread_down[k] = g.down[0] * axes[k] + g.down[1] * axes[3 + k] + g.down[2] * axes[6 + k];
  }
  const T xx = dot3(g.spread_across, g.spread_across), yy = dot3(g.spread_down, g.spread_down);
  g.xy = dot3(g.spread_across, g.spread_down);
  g.sharp = xx * yy - g.xy * g.xy;
  g.xx = xx + T(gaussian_blur), g.yy = yy + T(gaussian_blur);
  g.determinant = g.xx * g.yy - g.xy * g.xy;
  g.share = (g.sharp > 0 ? g.sharp : T(0)) / g.determinant;
  return g;
}

// What a Gaussian is in the image: centre, inverse covariance, depth (0 where it is not drawn), and by how much the blur spreads it.
template <typename T>
struct GaussianImage {
  T mean[2], conic[3], depth, shrink;
};

template <typename T>
HOST_DEVICE GaussianImage<T> gaussian_image(const GaussianInView<T>& g, const PinholeView<T>& view) {
  return {{view.focal * (g.x / g.z) + view.width / 2, view.focal * (g.y / g.z) + view.height / 2},
          {g.yy / g.determinant, -g.xy / g.determinant, g.xx / g.determinant},
          g.drawn ? g.z : T(0),
          T(sqrt(g.share > T(gaussian_least_share) ? g.share : T(gaussian_least_share)))};
}

// Adds the gradient to mean [3] and axes [3,3], given that of the image.
template <typename T>
HOST_DEVICE void gaussian_image_backward(const GaussianInView<T>& g, const T* axes, const PinholeView<T>& view, const GaussianImage<T>& grad, T* to_mean,
                                         T* to_axes) {
  const T inverse = 1 / g.determinant;
  const T to_share = g.share >= T(gaussian_least_share) ? grad.shrink / (2 * T(sqrt(g.share))) : T(0);
  const T to_sharp = g.sharp >= 0 ? to_share * inverse : T(0);
  const T to_determinant = -(to_share * g.share + (grad.conic[0] * g.yy - grad.conic[1] * g.xy + grad.conic[2] * g.xx) * inverse) * inverse;
  const T to_xx = grad.conic[2] * inverse + to_determinant * g.yy + to_sharp * (g.yy - T(gaussian_blur));
  const T to_yy = grad.conic[0] * inverse + to_determinant * g.xx + to_sharp * (g.xx - T(gaussian_blur));
  const T to_xy = -grad.conic[1] * inverse - 2 * g.xy * (to_determinant + to_sharp);
  T to_across[3] = {0, 0, 0}, to_down[3] = {0, 0, 0};
  for (int k = 0; k < 3; ++k) {
    const T spread_across = 2 * to_xx * g.spread_across[k] + to_xy * g.spread_down[k];
    const T spread_down = 2 * to_yy * g.spread_down[k] + to_xy * g.spread_across[k];
    for (int i = 0; i < 3; ++i) {
      to_axes[3 * i + k] += g.across[i] * spread_across + g.down[i] * spread_down;
      to_across[i] += axes[3 * i + k] * spread_across;
      to_down[i] += axes[3 * i + k] * spread_down;
    }
  }
  const T *right = view.turn, *down = view.turn + 3, *forward = view.turn + 6;
  const T to_slope_x = view.focal * grad.mean[0] - (g.inside_x ? g.scale * dot3(to_across, forward) : T(0));
  const T to_slope_y = view.focal * grad.mean[1] - (g.inside_y ? g.scale * dot3(to_down, forward) : T(0));
  const T to_scale = (dot3(to_across, g.across) + dot3(to_down, g.down)) / g.scale;
  const T to_x = to_slope_x / g.z, to_y = to_slope_y / g.z;
  const T to_z = g.drawn ? grad.depth - (to_x * g.x + to_y * g.y + to_scale * g.scale) / g.z : T(0);
  for (int i = 0; i < 3; ++i) to_mean[i] += right[i] * to_x + down[i] * to_y + forward[i] * to_z;
}

}  // namespace threedgen
