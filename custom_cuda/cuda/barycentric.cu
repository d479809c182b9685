// A thread per pixel. Backward, pixels add to the vertices of their faces atomically: the order varies from run to run, and so do the
// last bits.
#include "common/barycentric.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/barycentric_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

template <typename T>
__global__ void barycentric_forward(const T* clip, const int64_t* faces, const int64_t* face, int64_t pixels, int64_t face_count, int64_t vertices,
                                    int64_t height, int64_t width, T* out) {
  for (int64_t n = first_thread(); n < pixels; n += thread_stride()) {
    const int64_t* corner = corners_of(faces, face_count, vertices, face[n]);
    out[3 * n] = out[3 * n + 1] = out[3 * n + 2] = T(0);
    if (corner == nullptr) continue;
    const FaceAtPixel at = face_at_pixel(clip + n / (height * width) * vertices * 4, corner, centre_of(n / width % height, n % width, height, width));
    for (int k = 0; k < 3; ++k) out[3 * n + k] = static_cast<T>(at.weight[k]);
  }
}

template <typename T>
__global__ void barycentric_backward_pixels(const T* grad, const T* clip, const int64_t* faces, const int64_t* face, int64_t pixels,
                                            int64_t face_count, int64_t vertices, int64_t height, int64_t width, T* grad_clip) {
  for (int64_t n = first_thread(); n < pixels; n += thread_stride()) {
    const int64_t* corner = corners_of(faces, face_count, vertices, face[n]);
    if (corner == nullptr) continue;
    const int64_t image = n / (height * width) * vertices * 4;
    const Vector2 p = centre_of(n / width % height, n % width, height, width);
    ClipGradient part[3];
    face_at_pixel_backward(face_at_pixel(clip + image, corner, p), grad + 3 * n, p, part);
    for (int k = 0; k < 3; ++k) {
      T* to = grad_clip + image + 4 * corner[k];
      atomicAdd(to, static_cast<T>(part[k].x)), atomicAdd(to + 1, static_cast<T>(part[k].y)), atomicAdd(to + 3, static_cast<T>(part[k].w));
    }
  }
}

at::Tensor barycentric_cuda(const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_) {
  barycentric_checks(clip_, faces_, face_);
  const c10::cuda::CUDAGuard guard(clip_.device());
  const at::Tensor clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  at::Tensor out = at::empty({face.size(0), face.size(1), face.size(2), 3}, clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "barycentric", [&] {
    THREEDGEN_LAUNCH(face.numel(), barycentric_forward<scalar_t>, clip.const_data_ptr<scalar_t>(), faces.const_data_ptr<int64_t>(),
                     face.const_data_ptr<int64_t>(), face.numel(), faces.size(0), clip.size(1), face.size(1), face.size(2),
                     out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

at::Tensor barycentric_backward_cuda(const at::Tensor& grad_, const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_) {
  barycentric_checks(clip_, faces_, face_);
  per_pixel_check("barycentric_backward: grad", grad_, face_, 3, clip_.scalar_type());
  const c10::cuda::CUDAGuard guard(clip_.device());
  const at::Tensor grad = grad_.contiguous(), clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  at::Tensor grad_clip = at::zeros(clip.sizes(), clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "barycentric_backward", [&] {
    THREEDGEN_LAUNCH(face.numel(), barycentric_backward_pixels<scalar_t>, grad.const_data_ptr<scalar_t>(), clip.const_data_ptr<scalar_t>(),
                     faces.const_data_ptr<int64_t>(), face.const_data_ptr<int64_t>(), face.numel(), faces.size(0), clip.size(1), face.size(1),
                     face.size(2), grad_clip.mutable_data_ptr<scalar_t>());
  });
  return grad_clip;
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("barycentric", &barycentric_cuda);
  m.impl("barycentric_backward", &barycentric_backward_cuda);
}

}  // namespace
}  // namespace threedgen
