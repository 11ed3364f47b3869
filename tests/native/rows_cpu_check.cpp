// The CPU kernels of layer_norm, grn, patch_conv and pooling against double precision, at odd sizes, on exactly sized
// memory. CNV2_VECTOR, CNV2_ROWS: the vector type and the rows of a register tile; with CNV2_PAIRS, BFloat16Pairs or
// BFloat16Tiles, patch_conv alone, by the kernels that multiply those. Prints "N problems, M failed".
#include <string>

#include "cpu/common/scratch.cpp"
#include "cpu/grn/kernel.h"
#include "cpu/layer_norm/kernel.h"
#include "cpu/mean/kernel.h"
#include "cpu/patch_conv/backward.h"
#include "cpu/patch_conv/kernel.h"
#include "kernel_problem.h"
#ifdef CNV2_PAIRS
#include "cpu/patch_conv/bf16.h"
#endif

namespace cnv2 {
namespace {

constexpr double kEps = 1e-6;

#ifdef CNV2_PAIRS
constexpr PatchConvCpu kOthers = {};  // for other activations than bfloat16, of which there are none here
using Pairs = PatchConvBf16Kernel<CNV2_VECTOR, CNV2_ROWS, CNV2_PAIRS, kOthers>;
constexpr PatchConvCpu kPatches = {Pairs::packed_floats,       Pairs::pack,           Pairs::run,
                                   Pairs::parameter_gradients, Pairs::input_gradient, true};
#else
using Patches = PatchConvKernel<CNV2_VECTOR, CNV2_ROWS>;
using PatchGradients = PatchConvBackward<CNV2_VECTOR, CNV2_ROWS>;
constexpr PatchConvCpu kPatches = {Patches::packed_floats,     Patches::pack,         Patches::run,
                                   PatchGradients::parameters, PatchGradients::input, false};
#endif

// The normalised row; its reciprocal standard deviation.
double normalize(const double* x, int64_t c, double* out) {
  double mean = 0, square = 0;
  for (int64_t i = 0; i < c; ++i) mean += x[i] / c;
  for (int64_t i = 0; i < c; ++i) square += (x[i] - mean) * (x[i] - mean) / c;
  const double rstd = 1 / std::sqrt(square + kEps);
  for (int64_t i = 0; i < c; ++i) out[i] = (x[i] - mean) * rstd;
  return rstd;
}

bool pool_failed(int64_t n, int64_t rows, int64_t c, DType dtype, int count) {
  std::mt19937 g(count);
  Array x = random_array(g, dtype, n * rows * c, 1);
  Floats y(n * c, NAN);
  MeanKernel<CNV2_VECTOR>::forward({x.view(), n, rows, c, y.data()}, threads(1 + count % 3));
  const Doubles X = x.values();
  Doubles Y(n * c);
  for (int64_t i = 0; i < n * rows * c; ++i) Y[i / (rows * c) * c + i % c] += X[i] / static_cast<double>(rows);
  const std::string what = "pool [" + std::to_string(n) + ", " + std::to_string(rows) + ", " + std::to_string(c) + "]";
  return report(what.c_str(), {{"y", difference(of(y), Y) / 1e-6}});
}

bool layer_norm_failed(int64_t rows, int64_t c, DType dtype, DType params, int count) {
  std::mt19937 g(count);
  Array x = random_array(g, dtype, rows * c, 1), dy = random_array(g, dtype, rows * c, 1);
  Array weight = random_array(g, params, c, 1), bias = random_array(g, params, c, 1);
  Array y(dtype, rows * c), dx(dtype, rows * c);
  Floats dparams(2 * c, NAN);
  const Parallel parallel = threads(1 + count % 3);
  using Kernel = LayerNormKernel<CNV2_VECTOR>;
  Kernel::forward({x.view(), weight.view(), bias.view(), y.data(), rows, c, static_cast<float>(kEps)}, parallel);
  Kernel::backward({dy.view(), x.view(), weight.view(), dx.data(), dparams.data(), rows, c, static_cast<float>(kEps)},
                   parallel);
  const Doubles X = x.values(), D = dy.values(), W = weight.values(), B = bias.values();
  Doubles Y(rows * c), DX(rows * c), DP(2 * c), hat(c);
  for (int64_t r = 0; r < rows; ++r) {
    const double rstd = normalize(&X[r * c], c, hat.data());
    double sum = 0, product = 0;
    for (int64_t i = 0; i < c; ++i) {
      const double d = D[r * c + i];
      Y[r * c + i] = hat[i] * W[i] + B[i];
      DP[i] += d * hat[i], DP[c + i] += d;
      sum += d * W[i] / c, product += d * W[i] * hat[i] / c;
    }
    for (int64_t i = 0; i < c; ++i) DX[r * c + i] = rstd * (D[r * c + i] * W[i] - sum - hat[i] * product);
  }
  const std::string what = "layer_norm [" + std::to_string(rows) + ", " + std::to_string(c) + "]";
  const double limit = rounding(dtype), wide = c == 1 ? 1e3 : 4 * limit;  // one channel: dx cancels to nothing
  return report(what.c_str(), {{"y", difference(y.values(), Y) / limit},
                               {"dx", difference(dx.values(), DX) / wide},
                               {"dparams", difference(of(dparams), DP) / 8e-6}});
}

bool grn_failed(const std::vector<int>& offsets, int64_t c, DType dtype, DType params, int count) {
  std::mt19937 g(count);
  const int64_t rows = offsets.back(), groups = static_cast<int64_t>(offsets.size()) - 1;
  Array x = random_array(g, dtype, rows * c, 1), dy = random_array(g, dtype, rows * c, 1);
  Array gamma = random_array(g, params, c, 1), beta = random_array(g, params, c, 1);
  Array y(dtype, rows * c), dx(dtype, rows * c);
  Floats norm(groups * c, NAN), dgamma(c, NAN), dbeta(c, NAN);
  const RowGroups of_rows{rows, groups, 0, offsets.data()};
  const Parallel parallel = threads(1 + count % 3);
  const float eps = static_cast<float>(kEps);
  using Kernel = GrnKernel<CNV2_VECTOR>;
  Kernel::forward({of_rows, c, eps, x.view(), gamma.view(), beta.view(), y.data(), norm.data()}, parallel);
  Kernel::backward(
      {of_rows, c, eps, dy.view(), x.view(), gamma.view(), norm.data(), dx.data(), dgamma.data(), dbeta.data()},
      parallel);
  const Doubles X = x.values(), D = dy.values(), G = gamma.values(), B = beta.values();
  Doubles Y(rows * c), DX(rows * c), DG(c), DB(c);
  for (int64_t q = 0; q < groups; ++q) {
    Doubles n(c), p(c);
    for (int64_t r = offsets[q]; r < offsets[q + 1]; ++r)
      for (int64_t i = 0; i < c; ++i) n[i] += X[r * c + i] * X[r * c + i], p[i] += D[r * c + i] * X[r * c + i];
    double m = kEps, shared = 0;
    for (int64_t i = 0; i < c; ++i) n[i] = std::sqrt(n[i]), m += n[i] / c;
    for (int64_t i = 0; i < c; ++i) shared += G[i] * p[i] * n[i], DG[i] += p[i] * n[i] / m;
    for (int64_t r = offsets[q]; r < offsets[q + 1]; ++r) {
      for (int64_t i = 0; i < c; ++i) {
        const int64_t at = r * c + i;
        const double s = 1 + G[i] * n[i] / m, dn = G[i] * p[i] / m - shared / (m * m * c);
        Y[at] = X[at] * s + B[i];
        DX[at] = D[at] * s + (n[i] > 0 ? X[at] * dn / n[i] : 0);
        DB[i] += D[at];
      }
    }
  }
  const std::string what = "grn [" + std::to_string(rows) + ", " + std::to_string(c) + "]";
  return report(what.c_str(), {{"y", difference(y.values(), Y) / rounding(dtype)},
                               {"dx", difference(dx.values(), DX) / (2 * rounding(dtype))},
                               {"dgamma", difference(of(dgamma), DG) / 8e-6},
                               {"dbeta", difference(of(dbeta), DB) / 8e-6}});
}

struct Image {
  int64_t n, h, w, c, k, out;
  bool planes;  // [N, C, H, W] in memory
  bool before, after;
};

bool patch_failed(const Image& s, DType dtype, DType params, int count) {
  std::mt19937 g(count);
  const int64_t down = s.h / s.k, across = s.w / s.k, rows = s.n * down * across, depth = s.k * s.k * s.c;
  const int64_t pixels = s.n * s.h * s.w;
  Array x = random_array(g, dtype, pixels * s.c, 1), w = random_array(g, params, s.out * depth, 1 / std::sqrt(depth));
  Array bias = random_array(g, params, s.out, 1), nw = random_array(g, params, s.c, 1),
        nb = random_array(g, params, s.c, 1);
  Array aw = random_array(g, params, s.out, 1), ab = random_array(g, params, s.out, 1), y(dtype, rows * s.out);
  const Parallel parallel = threads(1 + count % 3);
  // [Cout, Cin, k, k].
  const PatchWeight weight{w.view(), s.k, s.c, s.out, s.k, 1, s.k * s.k, depth, bias.view(), dtype};
  Floats packed(kPatches.packed_floats(weight));
  kPatches.pack(weight, packed.data(), parallel);
  PatchConvForward p{};
  p.x = x.view();
  p.channel_stride = s.planes ? s.h * s.w : 1;
  p.pixel_stride = s.planes ? 1 : s.c;
  p.row_stride = s.w * p.pixel_stride, p.sample_stride = s.h * s.w * s.c;
  p.height = s.h, p.width = s.w, p.rows = rows, p.k = s.k, p.c_in = s.c, p.c_out = s.out;
  p.packed = packed.data(), p.eps = static_cast<float>(kEps), p.y = y.data();
  if (s.before) p.before = {nw.view(), nb.view()};
  if (s.after) p.after = {aw.view(), ab.view()};
  kPatches.run(p, parallel);
  // The gradients, of contiguous pixels; the weight in the order of its rows.
  Array dz = random_array(g, dtype, rows * s.out, 1), back(dtype, pixels * s.c), w_rows(params, s.out * depth);
  Array x_rows(dtype, pixels * s.c);
  const Doubles X = x.values(), W = w.values(), D = dz.values();
  x_rows.each([&](int64_t i, auto& v) {
    const int64_t pixel = i / s.c, c = i % s.c, plane = s.h * s.w;
    from_float(static_cast<float>(X[s.planes ? (pixel / plane * s.c + c) * plane + pixel % plane : i]), &v);
  });
  w_rows.each([&](int64_t i, auto& v) {
    const int64_t o = i / depth, tap = i % depth / s.c, c = i % s.c;
    from_float(static_cast<float>(W[o * depth + c * s.k * s.k + tap]), &v);
  });
  Floats dweight(s.out * depth, NAN), dbias(s.out, NAN);
  p.x = x_rows.view(), p.channel_stride = 1, p.pixel_stride = s.c, p.row_stride = s.w * s.c;
  kPatches.parameter_gradients({p, dz.view(), dweight.data(), dbias.data()}, parallel);
  kPatches.input_gradient({p, dz.view(), w_rows.view(), back.data(), pixels, s.h % s.k == 0 && s.w % s.k == 0},
                          parallel);

  const Doubles B = bias.values(), NW = nw.values(), NB = nb.values(), AW = aw.values(), AB = ab.values();
  Doubles Y(rows * s.out), DW(s.out * depth), DB(s.out), DX(pixels * s.c), pixel(s.c), hat(s.c);
  for (int64_t r = 0; r < rows; ++r) {
    Doubles row(s.out);
    for (int64_t o = 0; o < s.out; ++o) row[o] = B[o];
    for (int64_t i = 0; i < s.k * s.k; ++i) {
      const int64_t iy = r / across % down * s.k + i / s.k, ix = r % across * s.k + i % s.k, in = r / (across * down);
      for (int64_t c = 0; c < s.c; ++c)
        pixel[c] = X[s.planes ? ((in * s.c + c) * s.h + iy) * s.w + ix : ((in * s.h + iy) * s.w + ix) * s.c + c];
      if (s.before) {
        normalize(pixel.data(), s.c, hat.data());
        for (int64_t c = 0; c < s.c; ++c) pixel[c] = hat[c] * NW[c] + NB[c];
      }
      for (int64_t c = 0; c < s.c; ++c) {
        for (int64_t o = 0; o < s.out; ++o) {
          row[o] += pixel[c] * W[o * depth + c * s.k * s.k + i];
          DW[o * depth + i * s.c + c] += pixel[c] * D[r * s.out + o];
          DX[((in * s.h + iy) * s.w + ix) * s.c + c] += W[o * depth + c * s.k * s.k + i] * D[r * s.out + o];
        }
      }
    }
    if (s.after) {
      Doubles normed(s.out);
      normalize(row.data(), s.out, normed.data());
      for (int64_t o = 0; o < s.out; ++o) row[o] = normed[o] * AW[o] + AB[o];
    }
    for (int64_t o = 0; o < s.out; ++o) Y[r * s.out + o] = row[o], DB[o] += D[r * s.out + o];
  }
  const std::string what =
      "patch_conv k " + std::to_string(s.k) + " C " + std::to_string(s.c) + " C' " + std::to_string(s.out);
  const double limit = 4 * rounding(dtype);
  // Pairs of normalised pixels are rounded, plain ones are what they were.
  const double in_sums = kPatches.pairs && dtype == DType::kBFloat16 && s.before ? rounding(dtype) : 8e-6;
  return report(what.c_str(), {{"y", difference(y.values(), Y) / limit},
                               {"dx", difference(back.values(), DX) / limit},
                               {"dweight", difference(of(dweight), DW) / in_sums},
                               {"dbias", difference(of(dbias), DB) / 8e-6}});
}

}  // namespace
}  // namespace cnv2

int main() {
  using namespace cnv2;
  int problems = 0, failures = 0;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (kPatches.pairs && dtype != DType::kBFloat16) continue;
    for (int64_t c : {1, 3, 8, 17, 40, 96, 131}) {
      if constexpr (kPatches.pairs) break;
      const DType params = problems % 2 ? dtype : DType::kFloat32;
      for (int64_t rows : {0, 1, 5, 70, 300}) failures += layer_norm_failed(rows, c, dtype, params, problems++);
      for (int64_t rows : {1, 49, 300})
        failures += pool_failed(1 + problems % 2, rows, 8 * c + 3, dtype, problems), ++problems;
      for (const std::vector<int>& offsets :
           std::vector<std::vector<int>>{{0}, {0, 0}, {0, 1}, {0, 7, 7, 90}, {0, 300}})
        failures += grn_failed(offsets, c, dtype, params, problems++);
    }
    for (const Image& image : std::vector<Image>{{2, 8, 12, 3, 4, 40, true, false, true},
                                                 {1, 9, 13, 3, 4, 33, true, false, true},
                                                 {1, 8, 8, 3, 4, 16, false, false, false},
                                                 {2, 6, 4, 40, 2, 80, false, true, false},
                                                 {1, 40, 32, 3, 2, 21, false, false, false},  // slices, slabs
                                                 {1, 7, 5, 17, 2, 31, false, true, false},
                                                 {1, 6, 6, 8, 3, 5, true, true, true},
                                                 {3, 14, 10, 66, 2, 45, false, true, false},
                                                 {1, 2, 2, 130, 1, 70, false, true, true}})
      failures += patch_failed(image, dtype, problems % 2 ? dtype : DType::kFloat32, problems), ++problems;
  }
  std::printf("%d problems, %d failed\n", problems, failures);
  return failures != 0;
}
