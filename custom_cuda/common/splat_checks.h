// Checks of the operators' arguments, for host code of both devices.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace threedgen {

inline void splat_bins_checks(const at::Tensor& mean, const at::Tensor& extent, const at::Tensor& depth, int64_t height, int64_t width, int64_t tile) {
  TORCH_CHECK_VALUE(mean.dim() == 3 && mean.size(2) == 2, "splat: mean must be [B,N,2], got ", mean.sizes());
  TORCH_CHECK_VALUE(extent.sizes() == mean.sizes(), "splat: extent must be as mean, got ", extent.sizes());
  TORCH_CHECK_VALUE(depth.sizes() == mean.sizes().slice(0, 2), "splat: depth must be [B,N], got ", depth.sizes());
  for (const auto* tensor : {&extent, &depth}) TORCH_CHECK_VALUE(tensor->scalar_type() == mean.scalar_type(), "splat: all must have the dtype of mean");
  TORCH_CHECK_VALUE(height > 0 && width > 0, "splat: the image must have at least one pixel, got ", height, " x ", width);
  TORCH_CHECK_VALUE(tile == 8 || tile == 16, "splat: tile must be 8 or 16, got ", tile);
  TORCH_CHECK_VALUE(mean.size(0) * mean.size(1) < (int64_t(1) << 31), "splat: views times Gaussians must stay below 2^31");
}

inline void splat_checks(const at::Tensor& mean, const at::Tensor& conic, const at::Tensor& opacity, const at::Tensor& features, const at::Tensor& extent,
                         const at::Tensor& entries, const at::Tensor& offsets, int64_t height, int64_t width, int64_t tile) {
  splat_bins_checks(mean, extent, opacity, height, width, tile);
  const auto gaussians = mean.sizes().slice(0, 2);
  TORCH_CHECK_VALUE(conic.dim() == 3 && conic.sizes().slice(0, 2) == gaussians && conic.size(2) == 3, "splat: conic must be [B,N,3], got ", conic.sizes());
  TORCH_CHECK_VALUE(features.dim() == 3 && features.sizes().slice(0, 2) == gaussians, "splat: features must be [B,N,C], got ", features.sizes());
  for (const auto* tensor : {&conic, &features}) TORCH_CHECK_VALUE(tensor->scalar_type() == mean.scalar_type(), "splat: all must have the dtype of mean");
  const int64_t tiles = ((height + tile - 1) / tile) * ((width + tile - 1) / tile);
  TORCH_CHECK_VALUE(entries.scalar_type() == at::kInt && entries.dim() == 1, "splat: entries must be int32 [E]");
  TORCH_CHECK_VALUE(offsets.scalar_type() == at::kLong && offsets.dim() == 1 && offsets.size(0) == mean.size(0) * tiles + 1,
                    "splat: offsets must be int64 with one entry more than the ", mean.size(0) * tiles, " tiles");
}

inline void splat_backward_checks(const at::Tensor& grad_out, const at::Tensor& grad_transmittance, const at::Tensor& features,
                                  const at::Tensor& transmittance, const at::Tensor& last, int64_t height, int64_t width) {
  const int64_t views = features.size(0);
  TORCH_CHECK_VALUE(grad_out.dim() == 4 && grad_out.size(0) == views && grad_out.size(1) == height && grad_out.size(2) == width && grad_out.size(3) == features.size(2),
                    "splat_backward: grad_out must be [B,H,W,C], got ", grad_out.sizes());
  for (const auto* tensor : {&grad_transmittance, &transmittance, &last})
    TORCH_CHECK_VALUE(tensor->sizes() == grad_out.sizes().slice(0, 3), "splat_backward: one value a pixel is needed, got ", tensor->sizes());
  for (const auto* tensor : {&grad_out, &grad_transmittance, &transmittance})
    TORCH_CHECK_VALUE(tensor->scalar_type() == features.scalar_type(), "splat_backward: all must have the dtype of features");
  TORCH_CHECK_VALUE(last.scalar_type() == at::kInt, "splat_backward: last must be int32");
}

}  // namespace threedgen
