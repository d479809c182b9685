#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/splat.h"
#include "common/splat_checks.h"
#include "cpu/parallel.h"
#include "cpu/splat_kernels.h"

namespace threedgen {
namespace {

// ---- which Gaussians a tile shows, nearest first

// Gaussians of a view that reach its image, in the order of their depth, equal ones in the order of their index.
template <typename T>
std::vector<int32_t> by_depth(const T* depth, const std::vector<PixelBox>& boxes) {
  std::vector<int32_t> order;
  order.reserve(boxes.size());
  for (size_t n = 0; n < boxes.size(); ++n)
    if (!boxes[n].empty()) order.push_back(int32_t(n));
  if constexpr (std::is_same_v<T, float>) {
    std::vector<uint64_t> keys(order.size());  // positive floats are in the order of their bits
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = uint64_t(std::bit_cast<uint32_t>(depth[order[i]])) << 32 | uint32_t(order[i]);
    std::sort(keys.begin(), keys.end());
    for (size_t i = 0; i < keys.size(); ++i) order[i] = int32_t(keys[i] & 0xffffffff);
  } else {
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return depth[a] < depth[b]; });
  }
  return order;
}

template <typename Visit>
void for_each_tile(const PixelBox& box, int64_t tile, int64_t across, const Visit& visit) {
  for (int64_t ty = box.y0 / tile; ty <= box.y1 / tile; ++ty)
    for (int64_t tx = box.x0 / tile; tx <= box.x1 / tile; ++tx) visit(ty * across + tx);
}

std::tuple<at::Tensor, at::Tensor> splat_bins(const at::Tensor& mean_, const at::Tensor& extent_, const at::Tensor& depth_, int64_t height, int64_t width, int64_t tile) {
  splat_bins_checks(mean_, extent_, depth_, height, width, tile);
  const at::Tensor mean = mean_.contiguous(), extent = extent_.contiguous(), depth = depth_.contiguous();
  const int64_t views = mean.size(0), gaussians = mean.size(1), across = (width + tile - 1) / tile, tiles = across * ((height + tile - 1) / tile);
  at::Tensor offsets = at::zeros({views * tiles + 1}, mean.options().dtype(at::kLong)), entries;
  auto* offset = offsets.mutable_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat_bins", [&] {
    const auto *m = mean.const_data_ptr<scalar_t>(), *x = extent.const_data_ptr<scalar_t>(), *d = depth.const_data_ptr<scalar_t>();
    std::vector<std::vector<PixelBox>> boxes(views);
    std::vector<std::vector<int32_t>> orders(views);
    parallel_tasks(views, [&](int64_t v) {
      boxes[v].resize(gaussians);
      for (int64_t n = 0; n < gaussians; ++n) {
        const int64_t g = v * gaussians + n;
        const bool drawn = d[g] > 0 && std::isfinite(d[g]);
        boxes[v][n] = drawn ? pixel_box(m + 2 * g, x + 2 * g, height, width) : PixelBox{0, -1, 0, -1};
      }
      orders[v] = by_depth(d + v * gaussians, boxes[v]);
      for (const int32_t n : orders[v]) for_each_tile(boxes[v][n], tile, across, [&](int64_t t) { ++offset[v * tiles + t + 1]; });
    });
    std::partial_sum(offset, offset + views * tiles + 1, offset);
    entries = at::empty({offset[views * tiles]}, mean.options().dtype(at::kInt));
    auto* entry = entries.mutable_data_ptr<int32_t>();
    parallel_tasks(views, [&](int64_t v) {
      std::vector<int64_t> next(offset + v * tiles, offset + (v + 1) * tiles);
      for (const int32_t n : orders[v]) for_each_tile(boxes[v][n], tile, across, [&](int64_t t) { entry[next[t]++] = int32_t(v * gaussians + n); });
    });
  });
  return {entries, offsets};
}

// ---- drawing

template <typename T>
const SplatKernelsOf<T>& kernels_for() {
  const auto& kernels = select_splat_kernels();
  if constexpr (std::is_same_v<T, float>)
    return kernels.f32;
  else
    return kernels.f64;
}

// What the tiles are made of, contiguous, with checks that keep every index inside.
struct Scene {
  at::Tensor mean, conic, opacity, features, extent, entries, offsets;
  int64_t height, width, tile;

  Scene(const at::Tensor& mean_, const at::Tensor& conic_, const at::Tensor& opacity_, const at::Tensor& features_, const at::Tensor& extent_,
        const at::Tensor& entries_, const at::Tensor& offsets_, int64_t height_, int64_t width_, int64_t tile_)
      : mean(mean_.contiguous()), conic(conic_.contiguous()), opacity(opacity_.contiguous()), features(features_.contiguous()), extent(extent_.contiguous()),
        entries(entries_.contiguous()), offsets(offsets_.contiguous()), height(height_), width(width_), tile(tile_) {
    splat_checks(mean, conic, opacity, features, extent, entries, offsets, height, width, tile);
    const auto *offset = offsets.const_data_ptr<int64_t>(), *end = offset + offsets.numel();
    TORCH_CHECK_VALUE(*offset == 0 && end[-1] == entries.numel() && std::is_sorted(offset, end), "splat: offsets must go from 0 to the entries and not decrease");
    const auto* entry = entries.const_data_ptr<int32_t>();
    const int64_t gaussians = mean.size(0) * mean.size(1);
    TORCH_CHECK_VALUE(std::all_of(entry, entry + entries.numel(), [&](int32_t e) { return e >= 0 && e < gaussians; }), "splat: entries must name Gaussians");
  }

  int64_t across() const { return (width + tile - 1) / tile; }
  int64_t tiles() const { return across() * ((height + tile - 1) / tile); }
  int64_t channels() const { return features.size(2); }

  // Calls work(tile, view, first entry, scratch) for every tile of every view.
  template <typename T, typename Work>
  void for_each(const Work& work) const {
    const auto* offset = offsets.const_data_ptr<int64_t>();
    parallel_tasks(mean.size(0) * tiles(), [&](int64_t task) {
      const int64_t t = task % tiles();
      const SplatTile<T> one = {mean.const_data_ptr<T>(), conic.const_data_ptr<T>(), opacity.const_data_ptr<T>(), features.const_data_ptr<T>(),
                                extent.const_data_ptr<T>(), entries.const_data_ptr<int32_t>() + offset[task], offset[task + 1] - offset[task], channels(),
                                t % across() * tile, t / across() * tile, height, width, int(tile)};
      const size_t bytes = (splat_scratch(tile, channels()) * sizeof(T) + 63) / 64 * 64;
      const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, bytes), &std::free);
      work(one, task / tiles(), offset[task], static_cast<T*>(scratch.get()));
    });
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> splat(const at::Tensor& mean, const at::Tensor& conic, const at::Tensor& opacity, const at::Tensor& features,
                                                     const at::Tensor& extent, const at::Tensor& entries, const at::Tensor& offsets, int64_t height, int64_t width,
                                                     int64_t tile) {
  const Scene scene(mean, conic, opacity, features, extent, entries, offsets, height, width, tile);
  const int64_t views = mean.size(0), channels = scene.channels(), pixels = height * width;
  at::Tensor out = at::empty({views, height, width, channels}, mean.options()), transmittance = at::empty({views, height, width}, mean.options());
  at::Tensor last = at::empty({views, height, width}, mean.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat", [&] {
    auto *o = out.mutable_data_ptr<scalar_t>(), *t = transmittance.mutable_data_ptr<scalar_t>();
    auto* l = last.mutable_data_ptr<int32_t>();
    scene.for_each<scalar_t>([&](const SplatTile<scalar_t>& one, int64_t view, int64_t, scalar_t* scratch) {
      kernels_for<scalar_t>().forward(one, {o + view * pixels * channels, t + view * pixels, l + view * pixels}, scratch);
    });
  });
  return {out, transmittance, last};
}

// Adds up the gradients of entries per Gaussian, view by view and in the order of the entries, so that the sum is always the same.
template <typename T>
void add_entries(const Scene& scene, const T* grad, T* mean, T* conic, T* opacity, T* features) {
  const auto* entry = scene.entries.const_data_ptr<int32_t>();
  const auto* offset = scene.offsets.const_data_ptr<int64_t>();
  const int64_t channels = scene.channels(), width = 6 + channels;
  parallel_tasks(scene.mean.size(0), [&](int64_t view) {
    for (int64_t e = offset[view * scene.tiles()]; e < offset[(view + 1) * scene.tiles()]; ++e) {
      const int64_t g = entry[e];
      const T* one = grad + e * width;
      for (int i = 0; i < 2; ++i) mean[2 * g + i] += one[i];
      for (int i = 0; i < 3; ++i) conic[3 * g + i] += one[2 + i];
      opacity[g] += one[5];
      for (int64_t c = 0; c < channels; ++c) features[g * channels + c] += one[6 + c];
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> splat_backward(
    const at::Tensor& grad_out_, const at::Tensor& grad_transmittance_, const at::Tensor& mean, const at::Tensor& conic, const at::Tensor& opacity,
    const at::Tensor& features, const at::Tensor& extent, const at::Tensor& entries, const at::Tensor& offsets, const at::Tensor& transmittance_,
    const at::Tensor& last_, int64_t height, int64_t width, int64_t tile) {
  const Scene scene(mean, conic, opacity, features, extent, entries, offsets, height, width, tile);
  splat_backward_checks(grad_out_, grad_transmittance_, features, transmittance_, last_, height, width);
  const at::Tensor grad_out = grad_out_.contiguous(), grad_transmittance = grad_transmittance_.contiguous(), transmittance = transmittance_.contiguous(), last = last_.contiguous();
  const int64_t channels = scene.channels(), pixels = height * width;
  at::Tensor to_mean = at::zeros(mean.sizes(), mean.options()), to_conic = at::zeros(conic.sizes(), mean.options());
  at::Tensor to_opacity = at::zeros(opacity.sizes(), mean.options()), to_features = at::zeros(features.sizes(), mean.options());
  at::Tensor to_entries = at::empty({scene.entries.numel(), 6 + channels}, mean.options());
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat_backward", [&] {
    const auto *go = grad_out.const_data_ptr<scalar_t>(), *gt = grad_transmittance.const_data_ptr<scalar_t>(), *t = transmittance.const_data_ptr<scalar_t>();
    const auto* l = last.const_data_ptr<int32_t>();
    auto* ge = to_entries.mutable_data_ptr<scalar_t>();
    scene.for_each<scalar_t>([&](const SplatTile<scalar_t>& one, int64_t view, int64_t first, scalar_t* scratch) {
      kernels_for<scalar_t>().backward(
          one, {go + view * pixels * channels, gt + view * pixels, t + view * pixels, l + view * pixels, ge + first * (6 + channels)}, scratch);
    });
    add_entries<scalar_t>(scene, ge, to_mean.mutable_data_ptr<scalar_t>(), to_conic.mutable_data_ptr<scalar_t>(), to_opacity.mutable_data_ptr<scalar_t>(),
                          to_features.mutable_data_ptr<scalar_t>());
  });
  return {to_mean, to_conic, to_opacity, to_features};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("splat_bins", &splat_bins);
  m.impl("splat", &splat);
  m.impl("splat_backward", &splat_backward);
}

}  // namespace
}  // namespace threedgen
