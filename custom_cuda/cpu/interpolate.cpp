// Backward, a task owns an image: the faces of its pixels share vertices, and one order of additions gives the same bits always.
#include <algorithm>
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/barycentric.h"
#include "common/interpolate_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 4096;  // pixels of a task

at::Tensor interpolate_cpu(const at::Tensor& attributes_, const at::Tensor& faces_, const at::Tensor& face_, const at::Tensor& weights_) {
  interpolate_checks(attributes_, faces_, face_, weights_);
  const at::Tensor attributes = dense_rows(attributes_), faces = faces_.contiguous(), face = face_.contiguous(), weights = weights_.contiguous();
  const int64_t vertices = attributes.size(1), channels = attributes.size(2), image_pixels = face.size(1) * face.size(2), pixels = face.numel();
  at::Tensor out = at::empty({face.size(0), face.size(1), face.size(2), channels}, attributes.options());
  AT_DISPATCH_FLOATING_TYPES(attributes.scalar_type(), "interpolate", [&] {
    const auto *a = attributes.const_data_ptr<scalar_t>(), *weight = weights.const_data_ptr<scalar_t>();
    const auto *index = faces.const_data_ptr<int64_t>(), *seen = face.const_data_ptr<int64_t>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    parallel_tasks((pixels + chunk - 1) / chunk, [&](int64_t task) {
      for (int64_t n = task * chunk; n < std::min(pixels, (task + 1) * chunk); ++n) {
        const int64_t* corner = corners_of(index, faces.size(0), vertices, seen[n]);
        const scalar_t *image = a + n / image_pixels * attributes.stride(0), *w = weight + 3 * n;
        for (int64_t c = 0; c < channels; ++c) {
          const auto value = [&](int k) { return w[k] * image[corner[k] * channels + c]; };
          o[n * channels + c] = corner == nullptr ? scalar_t(0) : value(0) + value(1) + value(2);
        }
      }
    });
  });
  return out;
}

template <typename T>
void interpolate_backward_image(const T* grad, const T* attributes, const int64_t* faces, const int64_t* face, const T* weight, int64_t face_count,
                                int64_t vertices, int64_t channels, int64_t pixels, T* grad_attributes, T* grad_weight) {
  for (int64_t n = 0; n < pixels; ++n) {
    const int64_t* corner = corners_of(faces, face_count, vertices, face[n]);
    for (int k = 0; k < 3; ++k) {
      T dot = 0;
      if (corner != nullptr) {
        const T* row = attributes + corner[k] * channels;
        T* to = grad_attributes + corner[k] * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const T g = grad[n * channels + c];
          dot += g * row[c];
          to[c] += weight[3 * n + k] * g;
        }
      }
      grad_weight[3 * n + k] = dot;
    }
  }
}

std::tuple<at::Tensor, at::Tensor> interpolate_backward_cpu(const at::Tensor& grad_, const at::Tensor& attributes_, const at::Tensor& faces_,
                                                            const at::Tensor& face_, const at::Tensor& weights_) {
  interpolate_checks(attributes_, faces_, face_, weights_);
  per_pixel_check("interpolate_backward: grad", grad_, face_, attributes_.size(2), attributes_.scalar_type());
  const at::Tensor grad = grad_.contiguous(), attributes = dense_rows(attributes_), faces = faces_.contiguous();
  const at::Tensor face = face_.contiguous(), weights = weights_.contiguous();
  const int64_t vertices = attributes.size(1), channels = attributes.size(2), pixels = face.size(1) * face.size(2);
  at::Tensor grad_attributes = at::zeros(attributes.sizes(), attributes.options()), grad_weights = at::empty(weights.sizes(), weights.options());
  AT_DISPATCH_FLOATING_TYPES(attributes.scalar_type(), "interpolate_backward", [&] {
    const auto *g = grad.const_data_ptr<scalar_t>(), *a = attributes.const_data_ptr<scalar_t>(), *weight = weights.const_data_ptr<scalar_t>();
    auto *ga = grad_attributes.mutable_data_ptr<scalar_t>(), *gw = grad_weights.mutable_data_ptr<scalar_t>();
    parallel_tasks(face.size(0), [&](int64_t image) {
      const int64_t first = image * pixels;
      interpolate_backward_image(g + first * channels, a + image * attributes.stride(0), faces.const_data_ptr<int64_t>(),
                                 face.const_data_ptr<int64_t>() + first, weight + 3 * first, faces.size(0), vertices, channels, pixels,
                                 ga + image * vertices * channels, gw + 3 * first);
    });
  });
  return {grad_attributes, grad_weights};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("interpolate", &interpolate_cpu);
  m.impl("interpolate_backward", &interpolate_backward_cpu);
}

}  // namespace
}  // namespace threedgen
