// Arithmetic of the rasterizer, the same on every device (threedgen/ops/rasterize.py states the rules).
#pragma once

#include <cmath>
#include <cstdint>

#include "common/macros.h"

namespace threedgen {

constexpr int64_t subpixel = 256;
constexpr double furthest = 536870912.0;    // sub-pixels, 2^29: products of two differences stay within 64 bits
constexpr double depth_steps = 536870912.0;  // 2^29
constexpr int64_t empty_key = INT64_MAX;

struct ScreenVertex {
  int32_t x, y;  // sub-pixels, y down
  double depth;  // z/w
  double w;      // 0 marks a vertex whose faces are skipped
};

HOST_DEVICE ScreenVertex to_screen(double x, double y, double z, double w, int64_t height, int64_t width) {
  // Written as (ratio + 1) * half so that no compiler can contract it into a fused multiply-add.
  const double column = rint((x / w + 1.0) * (width * subpixel / 2.0));
  const double row = rint((1.0 - y / w) * (height * subpixel / 2.0));
  const bool drawable = w > 0.0 && std::isfinite(w) && std::isfinite(z) && fabs(column) <= furthest && fabs(row) <= furthest;
  if (!drawable) return {0, 0, 0.0, 0.0};
  return {static_cast<int32_t>(column), static_cast<int32_t>(row), z / w, w};
}

// Edge function of the edge opposite to a vertex: value = dx * (py - y) - dy * (px - x), turned so that inside is positive.
struct Edge {
  int64_t dx, dy, x, y;
  int64_t least;  // value of a centre that belongs to the face: 0 where the edge owns the centres on it (a top or a left edge), else 1
};

HOST_DEVICE int64_t edge_value(const Edge& edge, int64_t px, int64_t py) { return edge.dx * (py - edge.y) - edge.dy * (px - edge.x); }

struct Triangle {
  Edge edge[3];
  double depth[3];
  double area;  // twice the area in sub-pixels
  int32_t column0, column1, row0, row1;  // pixels whose centres it may cover, ends included
};

// Key of a triangle at a pixel whose edge values are given; empty_key where it does not own the pixel or its depth is cut away.
HOST_DEVICE int64_t fragment_key(const Triangle& triangle, const int64_t value[3], int64_t face) {
  for (int e = 0; e < 3; ++e)
    if (value[e] < triangle.edge[e].least) return empty_key;
  double z = 0.0;
  for (int e = 0; e < 3; ++e) z += static_cast<double>(value[e]) * triangle.depth[e];
  z /= triangle.area;
  if (!(fabs(z) <= 1.0)) return empty_key;
  return (static_cast<int64_t>(rint((z + 1.0) * depth_steps)) << 32) | face;
}

HOST_DEVICE int64_t floor_pixel(int64_t position) { return position >> 8; }
static_assert(subpixel == 1 << 8, "floor_pixel divides by subpixel");

HOST_DEVICE int64_t pixel_centre(int64_t pixel) { return pixel * subpixel + subpixel / 2; }

HOST_DEVICE Edge edge_between(const ScreenVertex& start, const ScreenVertex& end, int64_t sign) {
  const int64_t dx = (static_cast<int64_t>(end.x) - start.x) * sign, dy = (static_cast<int64_t>(end.y) - start.y) * sign;
  const bool top_or_left = dy < 0 || (dy == 0 && dx > 0);
  return {dx, dy, start.x, start.y, top_or_left ? 0 : 1};
}

// False where the triangle covers no pixel centre of the image.
HOST_DEVICE bool set_up(const ScreenVertex& a, const ScreenVertex& b, const ScreenVertex& c, int64_t height, int64_t width,
                                  Triangle& out) {
  if (a.w == 0.0 || b.w == 0.0 || c.w == 0.0) return false;
  const int32_t left = a.x < b.x ? (a.x < c.x ? a.x : c.x) : (b.x < c.x ? b.x : c.x);
  const int32_t right = a.x > b.x ? (a.x > c.x ? a.x : c.x) : (b.x > c.x ? b.x : c.x);
  const int32_t top = a.y < b.y ? (a.y < c.y ? a.y : c.y) : (b.y < c.y ? b.y : c.y);
  const int32_t bottom = a.y > b.y ? (a.y > c.y ? a.y : c.y) : (b.y > c.y ? b.y : c.y);
  constexpr int64_t half = subpixel / 2;
  const int64_t column0 = floor_pixel(left - half + subpixel - 1), row0 = floor_pixel(top - half + subpixel - 1);
  const int64_t column1 = floor_pixel(right - half), row1 = floor_pixel(bottom - half);
  out.column0 = static_cast<int32_t>(column0 > 0 ? column0 : 0);
  out.row0 = static_cast<int32_t>(row0 > 0 ? row0 : 0);
  out.column1 = static_cast<int32_t>(column1 < width - 1 ? column1 : width - 1);
  out.row1 = static_cast<int32_t>(row1 < height - 1 ? row1 : height - 1);
  if (out.column0 > out.column1 || out.row0 > out.row1) return false;
  const int64_t area = edge_value(edge_between(b, c, 1), a.x, a.y);
  if (area == 0) return false;
  const int64_t sign = area > 0 ? 1 : -1;
  out.edge[0] = edge_between(b, c, sign);
  out.edge[1] = edge_between(c, a, sign);
  out.edge[2] = edge_between(a, b, sign);
  out.depth[0] = a.depth, out.depth[1] = b.depth, out.depth[2] = c.depth;
  out.area = static_cast<double>(area * sign);
  return true;
}

// Perspective-correct weights of a face's vertices at a pixel that it covers.
template <typename T>
HOST_DEVICE void barycentric(const ScreenVertex& a, const ScreenVertex& b, const ScreenVertex& c, int64_t row, int64_t column,
                                       T out[3]) {
  const int64_t px = pixel_centre(column), py = pixel_centre(row);
  const double u = fabs(static_cast<double>(edge_value(edge_between(b, c, 1), px, py))) / a.w;
  const double v = fabs(static_cast<double>(edge_value(edge_between(c, a, 1), px, py))) / b.w;
  const double t = fabs(static_cast<double>(edge_value(edge_between(a, b, 1), px, py))) / c.w;
  const double sum = u + v + t;
  out[0] = static_cast<T>(u / sum), out[1] = static_cast<T>(v / sum), out[2] = static_cast<T>(t / sum);
}

}  // namespace threedgen
