// A thread per pair of neighbouring pixels. Backward, pairs add to the vertices of their outlines atomically: the order varies from run
// to run, and so do the last bits.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/silhouettes_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

template <typename T>
__device__ Shift shift_of_pair(const T* clip, const MeshSurface& mesh, const int64_t* face, int64_t pair) {
  const int64_t n = pair / 2, pixels = mesh.height * mesh.width, image = n / pixels;
  return shift_between(clip + image * mesh.vertices * 4, mesh, face + image * pixels, n % pixels / mesh.width, n % mesh.width, static_cast<int>(pair % 2));
}

template <typename T>
__global__ void silhouettes_forward(const T* clip, MeshSurface mesh, const int64_t* face, int64_t pairs, T* out) {
  for (int64_t pair = first_thread(); pair < pairs; pair += thread_stride()) out[pair] = static_cast<T>(shift_value(shift_of_pair(clip, mesh, face, pair)));
}

template <typename T>
__global__ void silhouettes_backward_pairs(const T* grad, const T* clip, MeshSurface mesh, const int64_t* face, int64_t pairs, T* grad_clip) {
  for (int64_t pair = first_thread(); pair < pairs; pair += thread_stride()) {
    if (grad[pair] == 0) continue;
    const Shift shift = shift_of_pair(clip, mesh, face, pair);
    if (!shift.found) continue;
    const int64_t image = pair / (2 * mesh.height * mesh.width) * mesh.vertices * 4;
    ClipGradient part[2];
    shift_backward(shift, clip + image, static_cast<double>(grad[pair]), part[0], part[1]);
    for (int k = 0; k < 2; ++k) {
      T* to = grad_clip + image + 4 * (k == 0 ? shift.outline.i : shift.outline.j);
      atomicAdd(to, static_cast<T>(part[k].x)), atomicAdd(to + 1, static_cast<T>(part[k].y)), atomicAdd(to + 3, static_cast<T>(part[k].w));
    }
  }
}

at::Tensor silhouettes_cuda(const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_, const at::Tensor& adjacency_) {
  silhouettes_checks(clip_, faces_, face_, adjacency_);
  const c10::cuda::CUDAGuard guard(clip_.device());
  const at::Tensor clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous(), adjacency = adjacency_.contiguous();
  at::Tensor shift = at::empty({face.size(0), face.size(1), face.size(2), 2}, clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "silhouettes", [&] {
    THREEDGEN_LAUNCH(shift.numel(), silhouettes_forward<scalar_t>, clip.const_data_ptr<scalar_t>(), mesh_surface(clip, faces, face, adjacency),
                     face.const_data_ptr<int64_t>(), shift.numel(), shift.mutable_data_ptr<scalar_t>());
  });
  return shift;
}

at::Tensor silhouettes_backward_cuda(const at::Tensor& grad_, const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_,
                                     const at::Tensor& adjacency_) {
  silhouettes_checks(clip_, faces_, face_, adjacency_);
  per_pixel_check("silhouettes_backward: grad", grad_, face_, 2, clip_.scalar_type());
  const c10::cuda::CUDAGuard guard(clip_.device());
  const at::Tensor grad = grad_.contiguous(), clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  const at::Tensor adjacency = adjacency_.contiguous();
  at::Tensor grad_clip = at::zeros(clip.sizes(), clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "silhouettes_backward", [&] {
    THREEDGEN_LAUNCH(grad.numel(), silhouettes_backward_pairs<scalar_t>, grad.const_data_ptr<scalar_t>(), clip.const_data_ptr<scalar_t>(),
                     mesh_surface(clip, faces, face, adjacency), face.const_data_ptr<int64_t>(), grad.numel(), grad_clip.mutable_data_ptr<scalar_t>());
  });
  return grad_clip;
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("silhouettes", &silhouettes_cuda);
  m.impl("silhouettes_backward", &silhouettes_backward_cuda);
}

}  // namespace
}  // namespace threedgen
