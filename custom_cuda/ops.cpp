// Schemas of all operators. Kernels register themselves per dispatch key in cpu/ and cuda/; autograd, fake kernels and the
// reference implementations are registered from Python (threedgen/ops/).
#include <torch/library.h>

TORCH_LIBRARY(threedgen, m) {
  m.def("hash_grid(Tensor x, Tensor table, int[] resolutions, int[] offsets) -> Tensor");
  m.def("hash_grid_backward(Tensor grad, Tensor x, Tensor table, int[] resolutions, int[] offsets, bool need_x) -> (Tensor, Tensor)");
  m.def("march_rays(Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor occupancy, Tensor jitter, float step) -> (Tensor, Tensor)");
  m.def("composite(Tensor sigma, Tensor features, Tensor offsets, float step) -> (Tensor, Tensor, Tensor)");
  m.def("composite_backward(Tensor grad_out, Tensor grad_transmittance, Tensor grad_weights, Tensor sigma, Tensor features, Tensor offsets, Tensor transmittance, float step) -> (Tensor, Tensor)");
  m.def("rasterize(Tensor clip, Tensor faces, int height, int width) -> (Tensor, Tensor)");
  m.def("project_gaussians(Tensor means, Tensor axes, Tensor turn, Tensor eye, Tensor focal, int height, int width) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("project_gaussians_backward(Tensor grad_mean, Tensor grad_conic, Tensor grad_depth, Tensor grad_shrink, Tensor means, Tensor axes, Tensor turn, Tensor eye, Tensor focal, int height, int width) -> (Tensor, Tensor)");
  m.def("splat_bins(Tensor mean, Tensor extent, Tensor depth, int height, int width, int tile) -> (Tensor, Tensor)");
  m.def("splat(Tensor mean, Tensor conic, Tensor opacity, Tensor features, Tensor extent, Tensor entries, Tensor offsets, int height, int width, int tile) -> (Tensor, Tensor, Tensor)");
  m.def("splat_backward(Tensor grad_out, Tensor grad_transmittance, Tensor mean, Tensor conic, Tensor opacity, Tensor features, Tensor extent, Tensor entries, Tensor offsets, Tensor transmittance, Tensor last, int height, int width, int tile) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("barycentric(Tensor clip, Tensor faces, Tensor face) -> Tensor");
  m.def("barycentric_backward(Tensor grad, Tensor clip, Tensor faces, Tensor face) -> Tensor");
  m.def("interpolate(Tensor attributes, Tensor faces, Tensor face, Tensor weights) -> Tensor");
  m.def("interpolate_backward(Tensor grad, Tensor attributes, Tensor faces, Tensor face, Tensor weights) -> (Tensor, Tensor)");
  m.def("silhouettes(Tensor clip, Tensor faces, Tensor face, Tensor adjacency) -> Tensor");
  m.def("silhouettes_backward(Tensor grad, Tensor clip, Tensor faces, Tensor face, Tensor adjacency) -> Tensor");
  m.def("cpu_isa() -> str");
}
