// Perspective-correct weights of a face's vertices at a pixel centre, and their gradient to the vertices.
//
// With the pixel centre p in [-1,1]^2 and d_k = (x_k - p_x w_k, y_k - p_y w_k), the weight of vertex k is E_k / (E_0 + E_1 + E_2) where
// E_k = d_{k+1} x d_{k+2}: the solution of sum_k u_k (x_k, y_k, w_k) ~ (p_x, p_y, 1) by Cramer's rule, without a division by w.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace threedgen {

constexpr double edge_on = 1e-9;  // faces of which twice the area is below this share of their squared size give no gradient

struct Vector2 {
  double x, y;
};

HOST_DEVICE double cross(Vector2 a, Vector2 b) { return a.x * b.y - a.y * b.x; }

// Centre of a pixel in [-1,1]^2, y up.
HOST_DEVICE Vector2 centre_of(int64_t row, int64_t column, int64_t height, int64_t width) {
  return {(2.0 * column + 1.0) / width - 1.0, 1.0 - (2.0 * row + 1.0) / height};
}

template <typename T>
HOST_DEVICE Vector2 offset_from(Vector2 p, const T* vertex) {
  const double w = vertex[3];
  return {vertex[0] - p.x * w, vertex[1] - p.y * w};
}

// The vertices of a face, nullptr where the face or one of them does not exist.
HOST_DEVICE const int64_t* corners_of(const int64_t* faces, int64_t face_count, int64_t vertex_count, int64_t face) {
  if (face < 0 || face >= face_count) return nullptr;
  const int64_t* corner = faces + 3 * face;
  for (int k = 0; k < 3; ++k)
    if (corner[k] < 0 || corner[k] >= vertex_count) return nullptr;
  return corner;
}

struct FaceAtPixel {
  Vector2 offset[3];
  double edge[3];  // E_k, turned so that inside is positive
  double sign, total, weight[3];
  bool differentiable;
};

// Weights are clamped to the face: the rasterizer snaps positions, so a centre it covers may lie a little outside of the exact face.
template <typename T>
HOST_DEVICE FaceAtPixel face_at_pixel(const T* clip, const int64_t* corner, Vector2 p) {
  FaceAtPixel at;
  double area = 0.0, size = 0.0;
  for (int k = 0; k < 3; ++k) {
    at.offset[k] = offset_from(p, clip + 4 * corner[k]);
    size += at.offset[k].x * at.offset[k].x + at.offset[k].y * at.offset[k].y;
  }
  for (int k = 0; k < 3; ++k) {
    at.edge[k] = cross(at.offset[(k + 1) % 3], at.offset[(k + 2) % 3]);
    area += at.edge[k] * clip[4 * corner[k] + 3];
  }
  at.sign = area < 0.0 ? -1.0 : 1.0;
  at.total = 0.0;
  double sum = 0.0;
  for (int k = 0; k < 3; ++k) {
    at.edge[k] *= at.sign;
    sum += at.edge[k];
    at.total += at.edge[k] > 0.0 ? at.edge[k] : 0.0;
  }
  at.differentiable = sum > edge_on * size;
  for (int k = 0; k < 3; ++k) at.weight[k] = at.total > 0.0 ? (at.edge[k] > 0.0 ? at.edge[k] : 0.0) / at.total : 1.0 / 3.0;
  return at;
}

struct ClipGradient {
  double x, y, w;
};

// d = (x - p_x w, y - p_y w): what reaches d reaches x, y and w.
HOST_DEVICE ClipGradient through_offset(Vector2 grad, Vector2 p) { return {grad.x, grad.y, -p.x * grad.x - p.y * grad.y}; }

template <typename T>
HOST_DEVICE void face_at_pixel_backward(const FaceAtPixel& at, const T* grad, Vector2 p, ClipGradient out[3]) {
  Vector2 offset[3] = {};
  const double mean = grad[0] * at.weight[0] + grad[1] * at.weight[1] + grad[2] * at.weight[2];
  for (int k = 0; k < 3; ++k) {
    if (!at.differentiable || at.edge[k] < 0.0) continue;
    const double g = at.sign * (grad[k] - mean) / at.total;
    const int i = (k + 1) % 3, j = (k + 2) % 3;
    offset[i].x += g * at.offset[j].y, offset[i].y -= g * at.offset[j].x;
    offset[j].x -= g * at.offset[i].y, offset[j].y += g * at.offset[i].x;
  }
  for (int k = 0; k < 3; ++k) out[k] = through_offset(offset[k], p);
}

}  // namespace threedgen
