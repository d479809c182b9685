// Where an outline of the surface passes between the centres a and b of neighbouring pixels (threedgen/ops/silhouettes.py states the rules).
//
// From the face that covers a, the segment to b is followed over the surface from face to face. It ends at b, or at an edge beyond which
// the surface ends or folds back: an outline. Edge functions E are linear along the segment, so edge (i,j) is crossed at the share
// E(a) / (E(a) - E(b)) of the way, E(p) = d_i(p) x d_j(p) as in barycentric.h.
#pragma once

#include <cmath>

#include "common/barycentric.h"

namespace threedgen {

constexpr int longest_walk = 32;                  // faces
constexpr double shortest_outline = 1.0 / 256.0;  // pixels an edge must extend across the segment, as far as positions are told apart

struct MeshSurface {  // by value, also as a kernel's argument
  const int64_t *faces, *adjacency;
  int64_t face_count, vertices, height, width;
};

struct Outline {
  bool found;       // the surface ends between a and b
  bool counts;      // ... at an edge that runs across the segment, more than along it
  int64_t i, j;     // its vertices
  double along;     // share of the way from a to b
  int64_t arrived;  // where there is none: the face under b, -1 where the walk was given up
};

template <typename T>
HOST_DEVICE bool folds_back(const T* vi, const T* vj, const T* opposite, double sign) {
  if (!(opposite[3] > 0)) return true;
  // the edge function at the far vertex of the face beyond; the inside is positive
  const Vector2 far = {opposite[0] / static_cast<double>(opposite[3]), opposite[1] / static_cast<double>(opposite[3])};
  return sign * cross(offset_from(far, vi), offset_from(far, vj)) >= 0.0;
}

template <typename T>
HOST_DEVICE Outline outline_from(const T* clip, const MeshSurface& mesh, int64_t face, Vector2 a, Vector2 b) {
  int entry = -1;
  for (int step = 0; step < longest_walk; ++step) {
    const int64_t* corner = corners_of(mesh.faces, mesh.face_count, mesh.vertices, face);
    if (corner == nullptr) return {false, false, 0, 0, 0.0, -1};
    const T* vertex[3] = {clip + 4 * corner[0], clip + 4 * corner[1], clip + 4 * corner[2]};
    Vector2 from[3], to[3];
    for (int k = 0; k < 3; ++k) from[k] = offset_from(a, vertex[k]), to[k] = offset_from(b, vertex[k]);
    double area = 0.0;
    for (int k = 0; k < 3; ++k) area += cross(from[(k + 1) % 3], from[(k + 2) % 3]) * vertex[k][3];
    const double sign = area < 0.0 ? -1.0 : 1.0;
    int exit = -1;
    double along = 0.0;
    for (int k = 0; k < 3; ++k) {
      const double at_a = sign * cross(from[(k + 1) % 3], from[(k + 2) % 3]), at_b = sign * cross(to[(k + 1) % 3], to[(k + 2) % 3]);
      if (k == entry || at_b >= 0.0 || at_a <= at_b) continue;
      const double crossed = at_a / (at_a - at_b);
      if (exit < 0 || crossed < along) exit = k, along = crossed;
    }
    if (exit < 0) return {false, false, 0, 0, 0.0, face};
    const int i = (exit + 1) % 3, j = (exit + 2) % 3;
    const int64_t beyond = mesh.adjacency[3 * face + exit];
    const bool ends = beyond < 0 || beyond >= 3 * mesh.face_count || mesh.faces[beyond] < 0 || mesh.faces[beyond] >= mesh.vertices;
    if (ends || folds_back(vertex[i], vertex[j], clip + 4 * mesh.faces[beyond], sign)) {
      const double x = fabs(vertex[i][0] / static_cast<double>(vertex[i][3]) - vertex[j][0] / static_cast<double>(vertex[j][3])) * mesh.width / 2;
      const double y = fabs(vertex[i][1] / static_cast<double>(vertex[i][3]) - vertex[j][1] / static_cast<double>(vertex[j][3])) * mesh.height / 2;
      const bool counts = a.y == b.y ? y >= x && y >= shortest_outline : x > y && x >= shortest_outline;
      return {true, counts, corner[i], corner[j], along, -1};
    }
    face = beyond / 3, entry = static_cast<int>(beyond % 3);
  }
  return {false, false, 0, 0, 0.0, -1};
}

template <typename T>
HOST_DEVICE double depth_at(const T* clip, const MeshSurface& mesh, int64_t face, Vector2 p) {
  const int64_t* corner = corners_of(mesh.faces, mesh.face_count, mesh.vertices, face);
  if (corner == nullptr) return HUGE_VAL;
  const FaceAtPixel at = face_at_pixel(clip, corner, p);
  double z = 0.0, w = 0.0;
  for (int k = 0; k < 3; ++k) z += at.weight[k] * clip[4 * corner[k] + 2], w += at.weight[k] * clip[4 * corner[k] + 3];
  return z / w;
}

struct Shift {
  bool found;
  Outline outline;
  Vector2 from, to;  // the centres between which it was met
  double sign;       // +1 where that is the order of the pair
};

// The outline between a pixel and its neighbour to the right (axis 0) or below (axis 1). The nearer surface is followed first.
template <typename T>
HOST_DEVICE Shift shift_between(const T* clip, const MeshSurface& mesh, const int64_t* face, int64_t row, int64_t column, int axis) {
  const int64_t next_row = row + axis, next_column = column + 1 - axis;
  if (next_row >= mesh.height || next_column >= mesh.width) return {};
  const int64_t here = face[row * mesh.width + column], there = face[next_row * mesh.width + next_column];
  if (here == there) return {};
  const Vector2 a = centre_of(row, column, mesh.height, mesh.width), b = centre_of(next_row, next_column, mesh.height, mesh.width);
  const bool here_first = depth_at(clip, mesh, here, a) <= depth_at(clip, mesh, there, b);
  for (int turn = 0; turn < 2; ++turn) {
    const bool forward = (turn == 0) == here_first;
    const Vector2 from = forward ? a : b, to = forward ? b : a;
    const Outline outline = outline_from(clip, mesh, forward ? here : there, from, to);
    if (outline.found) return {outline.counts, outline, from, to, forward ? 1.0 : -1.0};
    if (outline.arrived == (forward ? there : here)) return {};  // both pixels see one piece of the surface
  }
  return {};
}

HOST_DEVICE double shift_value(const Shift& shift) {
  if (!shift.found) return 0.0;
  const double along = shift.outline.along;
  return shift.sign * ((along < 0.0 ? 0.0 : along > 1.0 ? 1.0 : along) - 0.5);
}

// What a gradient that reaches the shift sends to the vertices i and j of the outline.
template <typename T>
HOST_DEVICE void shift_backward(const Shift& shift, const T* clip, double grad, ClipGradient& to_i, ClipGradient& to_j) {
  const T *vi = clip + 4 * shift.outline.i, *vj = clip + 4 * shift.outline.j;
  to_i = {}, to_j = {};
  const Vector2 ai = offset_from(shift.from, vi), aj = offset_from(shift.from, vj), bi = offset_from(shift.to, vi), bj = offset_from(shift.to, vj);
  const double at_a = cross(ai, aj), at_b = cross(bi, bj), scale = shift.sign * grad / ((at_a - at_b) * (at_a - at_b));
  const double to_a = -at_b * scale, to_b = at_a * scale;
  const auto add = [](ClipGradient& sum, ClipGradient part) { sum.x += part.x, sum.y += part.y, sum.w += part.w; };
  add(to_i, through_offset({to_a * aj.y, -to_a * aj.x}, shift.from));
  add(to_i, through_offset({to_b * bj.y, -to_b * bj.x}, shift.to));
  add(to_j, through_offset({-to_a * ai.y, to_a * ai.x}, shift.from));
  add(to_j, through_offset({-to_b * bi.y, to_b * bi.x}, shift.to));
}

}  // namespace threedgen
