// Loops of Gaussian splatting. A tile is worked on strip by strip: `splat_lanes` pixels of a row, one SIMD value each for
// transmittance and every channel. Gaussians go one after the other, over the strips their box touches.
#include "cpu/splat_kernels.h"

#include "common/splat.h"

// SIMD values are passed between functions that are always inlined, so that no calling convention is involved.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace threedgen {
namespace {

template <typename T>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef int32_t integer;
  typedef float value __attribute__((vector_size(splat_lanes * 4)));
  typedef integer mask __attribute__((vector_size(splat_lanes * 4)));
};
template <>
struct LanesOf<double> {
  typedef int64_t integer;
  typedef double value __attribute__((vector_size(splat_lanes * 8)));
  typedef integer mask __attribute__((vector_size(splat_lanes * 8)));
};
template <typename T>
using Lanes = typename LanesOf<T>::value;
template <typename T>
using Mask = typename LanesOf<T>::mask;
template <typename T>
using Integer = typename LanesOf<T>::integer;

HOST_DEVICE bool any(const Mask<double>& mask) {
  int64_t sum = 0;
  for (int i = 0; i < splat_lanes; ++i) sum |= mask[i];
  return sum != 0;
}
HOST_DEVICE bool any(const Mask<float>& mask) {
  typedef long long Halves __attribute__((vector_size(32)));
  const auto halves = reinterpret_cast<Halves>(mask);
#if defined(__AVX__)
  return !__builtin_ia32_ptestz256(halves, halves);
#else
  return ((halves[0] | halves[1]) | (halves[2] | halves[3])) != 0;
#endif
}

template <typename V>
HOST_DEVICE auto total(const V& v) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

// exp(-x) for x >= 0: 2^n times the series of exp to the seventh power on [-ln(2)/2, ln(2)/2], to 2 units in the last place.
HOST_DEVICE Lanes<float> exp_of_minus(const Lanes<float>& x) {
  const Lanes<float> cut = x < 80.f ? x : Lanes<float>{} + 80.f;
  const Mask<float> n = __builtin_convertvector(cut * 1.44269504f + 0.5f, Mask<float>);
  const Lanes<float> r = __builtin_convertvector(n, Lanes<float>) * 0.693147182f - cut;
  Lanes<float> p = r * (1.f / 5040) + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return p * reinterpret_cast<Lanes<float>>((127 - n) << 23);
}
HOST_DEVICE Lanes<double> exp_of_minus(const Lanes<double>& x) {
  Lanes<double> out;
  for (int i = 0; i < splat_lanes; ++i) out[i] = __builtin_exp(-x[i]);
  return out;
}

HOST_DEVICE float natural_log(float x) { return __builtin_logf(x); }
HOST_DEVICE double natural_log(double x) { return __builtin_log(x); }

// A Gaussian as the strips of a tile need it.
template <typename T>
struct Splat {
  T x, y, a, b, c, opacity, reach;  // mean from the tile's corner; half the conic's diagonal; least alpha at exponent `reach`
  int first_row, last_row, first_strip, last_strip;
};

template <typename T>
HOST_DEVICE Splat<T> load(const SplatTile<T>& tile, int64_t g) {
  const T *mean = tile.mean + 2 * g, *conic = tile.conic + 3 * g;
  const PixelBox box = pixel_box(mean, tile.extent + 2 * g, tile.height, tile.width);
  const int64_t end = tile.tile - 1;
  const int64_t x0 = box.x0 - tile.x, x1 = box.x1 - tile.x, y0 = box.y0 - tile.y, y1 = box.y1 - tile.y;
  const T opacity = tile.opacity[g];
  return {mean[0] - T(tile.x),
          mean[1] - T(tile.y),
          conic[0] / 2,
          conic[1],
          conic[2] / 2,
          opacity,
          natural_log(opacity * T(1 / splat_least_alpha)) + T(1e-3),
          int(y0 > 0 ? y0 : 0),
          int(y1 < end ? y1 : end),
          int(x0 > 0 ? x0 : 0) / splat_lanes,
          int(x1 < end ? x1 : end) / splat_lanes};
}

// What a Gaussian does to a strip.
template <typename T>
struct Cover {
  Lanes<T> dx, alpha;  // from the mean to the pixels; alpha before it is cut to the greatest
  T dy;
  Mask<T> shows;
};

template <typename T>
HOST_DEVICE bool cover(const Splat<T>& s, int row, int strip, const Lanes<T>& columns, Cover<T>& out) {
  out.dy = T(row) + T(0.5) - s.y;
  out.dx = columns + (T(strip * splat_lanes) - s.x);
  const Lanes<T> exponent = (s.a * out.dx + s.b * out.dy) * out.dx + s.c * out.dy * out.dy;
  out.shows = (exponent <= s.reach) & (exponent >= T(0));
  if (!any(out.shows)) return false;
  out.alpha = s.opacity * exp_of_minus(exponent);
  out.shows &= out.alpha >= T(splat_least_alpha);
  return true;
}

template <typename T>
HOST_DEVICE Lanes<T> centres() {
  Lanes<T> out;
  for (int i = 0; i < splat_lanes; ++i) out[i] = T(i) + T(0.5);
  return out;
}

template <typename T>
HOST_DEVICE Lanes<T> least(const Lanes<T>& a, T b) {
  return a < b ? a : Lanes<T>{} + b;
}

// Whether a pixel of the tile lies in the image.
template <typename T>
HOST_DEVICE bool inside(const SplatTile<T>& tile, int row, int column) { return tile.y + row < tile.height && tile.x + column < tile.width; }
template <typename T>
HOST_DEVICE int64_t pixel_of(const SplatTile<T>& tile, int row, int column) { return (tile.y + row) * tile.width + tile.x + column; }

template <typename T>
void forward(const SplatTile<T>& tile, const SplatImage<T>& image, T* scratch) {
  const int64_t channels = tile.channels;
  const int across = tile.tile / splat_lanes, strips = tile.tile * across;
  auto* sums = reinterpret_cast<Lanes<T>*>(scratch);  // [strips, C]
  auto* light = sums + strips * channels;             // transmittance of pixels
  auto* last = reinterpret_cast<Mask<T>*>(light + strips);
  auto* open = last + strips;  // whether a pixel still takes Gaussians
  int open_strips = 0;
  for (int s = 0; s < strips; ++s) {
    for (int64_t c = 0; c < channels; ++c) sums[s * channels + c] = Lanes<T>{};
    light[s] = Lanes<T>{} + T(1);
    last[s] = Mask<T>{};
    for (int i = 0; i < splat_lanes; ++i) open[s][i] = inside(tile, s / across, s % across * splat_lanes + i) ? -1 : 0;
    open_strips += any(open[s]);
  }
  const Lanes<T> columns = centres<T>();
  for (int64_t e = 0; e < tile.count && open_strips > 0; ++e) {
    const Splat<T> splat = load(tile, tile.entries[e]);
    const T* features = tile.features + tile.entries[e] * channels;
    for (int row = splat.first_row; row <= splat.last_row; ++row)
      for (int strip = splat.first_strip; strip <= splat.last_strip; ++strip) {
        const int s = row * across + strip;
        Cover<T> found;
        if (!any(open[s]) || !cover(splat, row, strip, columns, found)) continue;
        const Lanes<T> alpha = least(found.alpha, T(splat_most_alpha));
        const Lanes<T> behind = light[s] * (T(1) - alpha);
        const Mask<T> takes = found.shows & open[s];
        const Mask<T> shows = takes & (behind > T(splat_least_transmittance));
        const Lanes<T> weight = shows ? alpha * light[s] : Lanes<T>{};
        for (int64_t c = 0; c < channels; ++c) sums[s * channels + c] += weight * features[c];
        light[s] = shows ? behind : light[s];
        last[s] = shows ? Mask<T>{} + Integer<T>(e + 1) : last[s];
        const Mask<T> left = open[s] & ~(takes & ~shows);
        open_strips -= any(open[s]) && !any(left);
        open[s] = left;
      }
  }
  for (int s = 0; s < strips; ++s)
    for (int i = 0; i < splat_lanes; ++i) {
      const int row = s / across, column = s % across * splat_lanes + i;
      if (!inside(tile, row, column)) continue;
      const int64_t p = pixel_of(tile, row, column);
      for (int64_t c = 0; c < channels; ++c) image.out[p * channels + c] = sums[s * channels + c][i];
      image.transmittance[p] = light[s][i];
      image.last[p] = int32_t(last[s][i]);
    }
}

// From the back to the front. With g the gradient that reaches the pixel, a Gaussian's alpha gets
//   T_i f_i . g - (sum_{j>i} w_j f_j . g + T_end G) / (1 - alpha_i),
// its exponent -alpha times that; sums of the latter times 1, dx, dy, dx^2, dx dy, dy^2 give all that is geometric.
template <typename T>
void backward(const SplatTile<T>& tile, const SplatGradient<T>& gradient, T* scratch) {
  const int64_t channels = tile.channels, width = 6 + channels;
  const int across = tile.tile / splat_lanes, strips = tile.tile * across;
  auto* grad = reinterpret_cast<Lanes<T>*>(scratch);  // [strips, C]
  auto* light = grad + strips * channels;
  auto* behind = light + strips;
  auto* last = reinterpret_cast<Mask<T>*>(behind + strips);
  auto* to_features = reinterpret_cast<Lanes<T>*>(last + strips);  // [C]
  int64_t most = 0;
  for (int s = 0; s < strips; ++s)
    for (int i = 0; i < splat_lanes; ++i) {
      const int row = s / across, column = s % across * splat_lanes + i;
      const bool there = inside(tile, row, column);
      const int64_t p = there ? pixel_of(tile, row, column) : 0;
      for (int64_t c = 0; c < channels; ++c) grad[s * channels + c][i] = there ? gradient.grad_out[p * channels + c] : T(0);
      light[s][i] = there ? gradient.transmittance[p] : T(1);
      behind[s][i] = there ? gradient.transmittance[p] * gradient.grad_transmittance[p] : T(0);
      last[s][i] = there ? gradient.last[p] : 0;
      most = last[s][i] > most ? int64_t(last[s][i]) : most;
    }
  for (int64_t e = 0; e < tile.count * width; ++e) gradient.grad_entries[e] = 0;
  const Lanes<T> columns = centres<T>();
  for (int64_t e = most - 1; e >= 0; --e) {
    const int64_t g = tile.entries[e];
    const Splat<T> splat = load(tile, g);
    const T* features = tile.features + g * channels;
    T* target = gradient.grad_entries + e * width;
    for (int64_t c = 0; c < channels; ++c) to_features[c] = Lanes<T>{};
    Lanes<T> one{}, x{}, y{}, xx{}, xy{}, yy{};
    for (int row = splat.first_row; row <= splat.last_row; ++row)
      for (int strip = splat.first_strip; strip <= splat.last_strip; ++strip) {
        const int s = row * across + strip;
        Cover<T> found;
        if (!cover(splat, row, strip, columns, found)) continue;
        const Mask<T> shows = found.shows & (last[s] > Integer<T>(e));
        if (!any(shows)) continue;
        const Lanes<T> alpha = least(found.alpha, T(splat_most_alpha));
        const Lanes<T> opened = T(1) / (T(1) - alpha);
        const Lanes<T> front = shows ? light[s] * opened : light[s];
        const Lanes<T> weight = shows ? alpha * front : Lanes<T>{};
        Lanes<T> dot{};
        for (int64_t c = 0; c < channels; ++c) {
          dot += features[c] * grad[s * channels + c];
          to_features[c] += weight * grad[s * channels + c];
        }
        const Lanes<T> to_alpha = front * dot - behind[s] * opened;
        const Lanes<T> to_exponent = (shows & (found.alpha <= T(splat_most_alpha))) ? -alpha * to_alpha : Lanes<T>{};
        behind[s] += weight * dot;
        light[s] = front;
        const Lanes<T> along = to_exponent * found.dx;
        one += to_exponent;
        x += along;
        xx += along * found.dx;
        y += to_exponent * found.dy;
        xy += along * found.dy;
        yy += to_exponent * (found.dy * found.dy);
      }
    const T sum_x = total(x), sum_y = total(y);
    target[0] = -2 * splat.a * sum_x - splat.b * sum_y;
    target[1] = -splat.b * sum_x - 2 * splat.c * sum_y;
    target[2] = total(xx) / 2;
    target[3] = total(xy);
    target[4] = total(yy) / 2;
    target[5] = -total(one) / splat.opacity;
    for (int64_t c = 0; c < channels; ++c) target[6 + c] = total(to_features[c]);
  }
}

}  // namespace

namespace THREEDGEN_ISA {
const SplatKernels splat_kernels = {{forward<float>, backward<float>}, {forward<double>, backward<double>}};
}

}  // namespace threedgen
