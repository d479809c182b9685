// Rasterizer on CUDA: a warp draws a face, atomicMin keeps the least key of a pixel, a second pass turns keys into faces and weights.
#include "common/rasterize.h"

#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace threedgen {
namespace {

constexpr int block_threads = 256;
constexpr int warp_threads = 32;

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + block_threads - 1) / block_threads); }

template <typename T>
__global__ void project(const T* clip, int64_t count, int64_t height, int64_t width, ScreenVertex* vertices) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (v < count) vertices[v] = to_screen(clip[4 * v], clip[4 * v + 1], clip[4 * v + 2], clip[4 * v + 3], height, width);
}

__global__ void draw(const ScreenVertex* vertices, const int64_t* faces, int64_t images, int64_t face_count, int64_t vertex_count,
                     int64_t height, int64_t width, int64_t* keys) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x) / warp_threads;
  if (warp >= images * face_count) return;
  const int64_t image = warp / face_count, f = warp % face_count;
  const int64_t i = faces[3 * f], j = faces[3 * f + 1], k = faces[3 * f + 2];
  if (i < 0 || j < 0 || k < 0 || i >= vertex_count || j >= vertex_count || k >= vertex_count) return;
  const ScreenVertex* seen = vertices + image * vertex_count;
  Triangle triangle;
  if (!set_up(seen[i], seen[j], seen[k], height, width, triangle)) return;
  const int64_t columns = triangle.column1 - triangle.column0 + 1, rows = triangle.row1 - triangle.row0 + 1;
  for (int64_t n = threadIdx.x % warp_threads; n < rows * columns; n += warp_threads) {
    const int64_t row = triangle.row0 + n / columns, column = triangle.column0 + n % columns;
    int64_t value[3];
    for (int e = 0; e < 3; ++e) value[e] = edge_value(triangle.edge[e], pixel_centre(column), pixel_centre(row));
    const int64_t key = fragment_key(triangle, value, f);
    // Keys are never negative, so the unsigned order is theirs.
    unsigned long long* pixel = reinterpret_cast<unsigned long long*>(keys + (image * height + row) * width + column);
    if (key != empty_key) atomicMin(pixel, static_cast<unsigned long long>(key));
  }
}

template <typename T>
__global__ void resolve(const ScreenVertex* vertices, const int64_t* faces, int64_t images, int64_t vertex_count, int64_t height,
                        int64_t width, int64_t* face, T* weights) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (n >= images * height * width) return;
  T* weight = weights + 3 * n;
  if (face[n] == empty_key) {
    face[n] = -1;
    weight[0] = weight[1] = weight[2] = T(0);
    return;
  }
  face[n] &= 0xFFFFFFFF;
  const int64_t* corner = faces + 3 * face[n];
  const ScreenVertex* seen = vertices + n / (height * width) * vertex_count;
  barycentric(seen[corner[0]], seen[corner[1]], seen[corner[2]], n / width % height, n % width, weight);
}

std::tuple<at::Tensor, at::Tensor> rasterize_cuda(const at::Tensor& clip_in, const at::Tensor& faces_in, int64_t height, int64_t width) {
  const c10::cuda::CUDAGuard guard(clip_in.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const at::Tensor clip = clip_in.contiguous(), faces = faces_in.contiguous();
  const int64_t images = clip.size(0), vertex_count = clip.size(1), face_count = faces.size(0), pixels = images * height * width;
  at::Tensor face = at::full({images, height, width}, empty_key, faces.options());
  at::Tensor weights = at::empty({images, height, width, 3}, clip.options());
  if (pixels == 0) return {face, weights};
  const int64_t bytes = images * vertex_count * static_cast<int64_t>(sizeof(ScreenVertex));
  at::Tensor storage = at::empty({bytes}, clip.options().dtype(at::kByte));
  auto* vertices = reinterpret_cast<ScreenVertex*>(storage.mutable_data_ptr());
  const int64_t* index = faces.const_data_ptr<int64_t>();
  int64_t* key = face.mutable_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "rasterize_cuda", [&] {
    if (vertex_count > 0 && face_count > 0) {
      project<<<blocks_for(images * vertex_count), block_threads, 0, stream>>>(clip.const_data_ptr<scalar_t>(), images * vertex_count, height,
                                                                          width, vertices);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      draw<<<blocks_for(images * face_count * warp_threads), block_threads, 0, stream>>>(vertices, index, images, face_count, vertex_count, height,
                                                                             width, key);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
    resolve<<<blocks_for(pixels), block_threads, 0, stream>>>(vertices, index, images, vertex_count, height, width, key,
                                                         weights.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {face, weights};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) { m.impl("rasterize", &rasterize_cuda); }

}  // namespace
}  // namespace threedgen
