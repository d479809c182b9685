// A thread per pixel. Backward, pixels add to the vertices of their faces atomically: the order varies from run to run, and so do the
// last bits.
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/barycentric.h"
#include "common/interpolate_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

struct MeshImage {  // by value, as a kernel's argument
  const int64_t *faces, *face;
  int64_t face_count, vertices, channels, stride, image_pixels, pixels;
};

template <typename T>
__global__ void interpolate_forward(MeshImage mesh, const T* attributes, const T* weights, T* out) {
  for (int64_t n = first_thread(); n < mesh.pixels; n += thread_stride()) {
    const int64_t* corner = corners_of(mesh.faces, mesh.face_count, mesh.vertices, mesh.face[n]);
    const T *image = attributes + n / mesh.image_pixels * mesh.stride, *w = weights + 3 * n;
    for (int64_t c = 0; c < mesh.channels; ++c) {
      T sum = 0;
      for (int k = 0; corner != nullptr && k < 3; ++k) sum += w[k] * image[corner[k] * mesh.channels + c];
      out[n * mesh.channels + c] = sum;
    }
  }
}

template <typename T>
__global__ void interpolate_backward_pixels(MeshImage mesh, const T* grad, const T* attributes, const T* weights, T* grad_attributes, T* grad_weights) {
  for (int64_t n = first_thread(); n < mesh.pixels; n += thread_stride()) {
    const int64_t* corner = corners_of(mesh.faces, mesh.face_count, mesh.vertices, mesh.face[n]);
    const int64_t image = n / mesh.image_pixels;
    for (int k = 0; k < 3; ++k) {
      T dot = 0;
      for (int64_t c = 0; corner != nullptr && c < mesh.channels; ++c) {
        const T g = grad[n * mesh.channels + c];
        dot += g * attributes[image * mesh.stride + corner[k] * mesh.channels + c];
        atomicAdd(grad_attributes + (image * mesh.vertices + corner[k]) * mesh.channels + c, weights[3 * n + k] * g);
      }
      grad_weights[3 * n + k] = dot;
    }
  }
}

MeshImage mesh_image(const at::Tensor& attributes, const at::Tensor& faces, const at::Tensor& face) {
  return {faces.const_data_ptr<int64_t>(), face.const_data_ptr<int64_t>(), faces.size(0), attributes.size(1), attributes.size(2),
          attributes.stride(0), face.size(1) * face.size(2), face.numel()};
}

at::Tensor interpolate_cuda(const at::Tensor& attributes_, const at::Tensor& faces_, const at::Tensor& face_, const at::Tensor& weights_) {
  interpolate_checks(attributes_, faces_, face_, weights_);
  const c10::cuda::CUDAGuard guard(attributes_.device());
  const at::Tensor attributes = dense_rows(attributes_), faces = faces_.contiguous(), face = face_.contiguous(), weights = weights_.contiguous();
  at::Tensor out = at::empty({face.size(0), face.size(1), face.size(2), attributes.size(2)}, attributes.options());
  AT_DISPATCH_FLOATING_TYPES(attributes.scalar_type(), "interpolate", [&] {
    THREEDGEN_LAUNCH(face.numel(), interpolate_forward<scalar_t>, mesh_image(attributes, faces, face), attributes.const_data_ptr<scalar_t>(),
                     weights.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> interpolate_backward_cuda(const at::Tensor& grad_, const at::Tensor& attributes_, const at::Tensor& faces_,
                                                             const at::Tensor& face_, const at::Tensor& weights_) {
  interpolate_checks(attributes_, faces_, face_, weights_);
  per_pixel_check("interpolate_backward: grad", grad_, face_, attributes_.size(2), attributes_.scalar_type());
  const c10::cuda::CUDAGuard guard(attributes_.device());
  const at::Tensor grad = grad_.contiguous(), attributes = dense_rows(attributes_), faces = faces_.contiguous();
  const at::Tensor face = face_.contiguous(), weights = weights_.contiguous();
  at::Tensor grad_attributes = at::zeros(attributes.sizes(), attributes.options()), grad_weights = at::empty(weights.sizes(), weights.options());
  AT_DISPATCH_FLOATING_TYPES(attributes.scalar_type(), "interpolate_backward", [&] {
    THREEDGEN_LAUNCH(face.numel(), interpolate_backward_pixels<scalar_t>, mesh_image(attributes, faces, face), grad.const_data_ptr<scalar_t>(),
                     attributes.const_data_ptr<scalar_t>(), weights.const_data_ptr<scalar_t>(), grad_attributes.mutable_data_ptr<scalar_t>(),
                     grad_weights.mutable_data_ptr<scalar_t>());
  });
  return {grad_attributes, grad_weights};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("interpolate", &interpolate_cuda);
  m.impl("interpolate_backward", &interpolate_backward_cuda);
}

}  // namespace
}  // namespace threedgen
