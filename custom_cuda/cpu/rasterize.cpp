// Rasterizer on the CPU. Work is cut into (image, band of rows); a band belongs to one thread, and the least key wins in whatever
// order faces come, so results do not depend on the number of threads.
#include "common/rasterize.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t band_rows = 32;
constexpr int64_t vertex_chunk = 4096;

void draw_band(const ScreenVertex* vertices, const int64_t* faces, int64_t face_count, int64_t vertex_count, int64_t height, int64_t width,
               int64_t band_begin, int64_t band_end, int64_t* keys) {
  const int64_t first_centre = pixel_centre(band_begin), last_centre = pixel_centre(band_end - 1);
  Triangle triangle;
  for (int64_t f = 0; f < face_count; ++f) {
    const int64_t i = faces[3 * f], j = faces[3 * f + 1], k = faces[3 * f + 2];
    if (std::min({i, j, k}) < 0 || std::max({i, j, k}) >= vertex_count) continue;
    const ScreenVertex &a = vertices[i], &b = vertices[j], &c = vertices[k];
    if (std::min({a.y, b.y, c.y}) > last_centre || std::max({a.y, b.y, c.y}) < first_centre) continue;
    if (!set_up(a, b, c, height, width, triangle)) continue;
    const int64_t row_begin = std::max<int64_t>(triangle.row0, band_begin), row_end = std::min<int64_t>(triangle.row1 + 1, band_end);
    for (int64_t row = row_begin; row < row_end; ++row) {
      int64_t value[3], step[3];
      for (int e = 0; e < 3; ++e) {
        value[e] = edge_value(triangle.edge[e], pixel_centre(triangle.column0), pixel_centre(row));
        step[e] = -triangle.edge[e].dy * subpixel;
      }
      int64_t* line = keys + row * width;
      for (int64_t column = triangle.column0; column <= triangle.column1; ++column) {
        line[column] = std::min(line[column], fragment_key(triangle, value, f));
        for (int e = 0; e < 3; ++e) value[e] += step[e];
      }
    }
  }
}

template <typename T>
void resolve_rows(const ScreenVertex* vertices, const int64_t* faces, int64_t width, int64_t row_begin, int64_t row_end, int64_t* face,
                  T* weights) {
  for (int64_t pixel = row_begin * width; pixel < row_end * width; ++pixel) {
    if (face[pixel] == empty_key) {
      face[pixel] = -1;
      weights[3 * pixel] = weights[3 * pixel + 1] = weights[3 * pixel + 2] = T(0);
      continue;
    }
    face[pixel] &= 0xFFFFFFFF;
    const int64_t* corner = faces + 3 * face[pixel];
    barycentric(vertices[corner[0]], vertices[corner[1]], vertices[corner[2]], pixel / width, pixel % width, weights + 3 * pixel);
  }
}

std::tuple<at::Tensor, at::Tensor> rasterize_cpu(const at::Tensor& clip_in, const at::Tensor& faces_in, int64_t height, int64_t width) {
  const at::Tensor clip = clip_in.contiguous(), faces = faces_in.contiguous();
  const int64_t images = clip.size(0), vertex_count = clip.size(1), face_count = faces.size(0);
  // The face image first holds the keys.
  at::Tensor face = at::full({images, height, width}, empty_key, faces.options());
  at::Tensor weights = at::empty({images, height, width, 3}, clip.options());
  std::vector<ScreenVertex> vertices(images * vertex_count);
  const int64_t bands = (height + band_rows - 1) / band_rows;
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "rasterize_cpu", [&] {
    const scalar_t* position = clip.const_data_ptr<scalar_t>();
    const int64_t* index = faces.const_data_ptr<int64_t>();
    int64_t* key = face.mutable_data_ptr<int64_t>();
    scalar_t* weight = weights.mutable_data_ptr<scalar_t>();
    const int64_t chunks = (images * vertex_count + vertex_chunk - 1) / vertex_chunk;
    parallel_tasks(chunks, [&](int64_t task) {
      const int64_t end = std::min(images * vertex_count, (task + 1) * vertex_chunk);
      for (int64_t v = task * vertex_chunk; v < end; ++v) {
        const scalar_t* p = position + 4 * v;
        vertices[v] = to_screen(p[0], p[1], p[2], p[3], height, width);
      }
    });
    parallel_tasks(images * bands, [&](int64_t task) {
      const int64_t image = task / bands, row_begin = task % bands * band_rows, row_end = std::min(row_begin + band_rows, height);
      const ScreenVertex* seen = vertices.data() + image * vertex_count;
      int64_t* keys = key + image * height * width;
      draw_band(seen, index, face_count, vertex_count, height, width, row_begin, row_end, keys);
      resolve_rows(seen, index, width, row_begin, row_end, keys, weight + image * height * width * 3);
    });
  });
  return {face, weights};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) { m.impl("rasterize", &rasterize_cpu); }

}  // namespace
}  // namespace threedgen
