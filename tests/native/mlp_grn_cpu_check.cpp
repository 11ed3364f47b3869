// mlp_grn's CPU kernels, forward and backward, against double precision, at odd sizes, on exactly sized memory.
// CNV2_VECTOR, CNV2_ROWS: the vector type and the rows of a register tile; with CNV2_PAIRS, BFloat16Pairs or
// BFloat16Tiles, the kernels that multiply those. Prints "N problems, M failed".
#include <string>

#include "cpu/common/cpu_features.h"
#include "cpu/common/scratch.cpp"
#include "cpu/mlp_grn/kernel.h"
#include "kernel_problem.h"
#include "mlp_grn_plain.h"
#ifdef CNV2_PAIRS
#include "cpu/mlp_grn/bf16.h"
#endif

namespace cnv2 {
namespace {

using Floats32 = MlpGrnKernel<CNV2_VECTOR, (CNV2_ROWS < 14 ? CNV2_ROWS : 14)>;
#ifdef CNV2_PAIRS
constexpr bool kPairs = true;
constexpr MlpGrnCpu kFloats32 = {Floats32::packed_floats, Floats32::pack, Floats32::forward, Floats32::backward, false};
using Kernel = MlpGrnBf16Kernel<CNV2_VECTOR, CNV2_ROWS, CNV2_PAIRS, kFloats32>;
#else
constexpr bool kPairs = false;
using Kernel = Floats32;
#endif

Array in_bfloat16(Array from, DType dtype) {
  const Doubles values = from.values();
  Array out(dtype, from.count);
  out.each([&](int64_t i, auto& v) { from_float(rounded(values[i]), &v); });
  return out;
}

struct Problem {
  std::vector<int> offsets;  // of the groups
  int64_t c_in, hidden, c_out;
  DType dtype, param_dtype;
  int64_t held_bytes;
  int threads;
  bool residual, scaled;
};

// float32 weights come to pairs as their values rounded to bfloat16 would.
bool rounds_weights(const MlpGrnShape& shape, MlpGrnWeights weights, int64_t seed, const Parallel& parallel) {
  std::mt19937 g(seed);
  Array w1 = random_array(g, DType::kFloat32, shape.hidden * shape.c_in, 1);
  Array w2 = random_array(g, DType::kFloat32, shape.hidden * shape.c_out, 1);
  Array r1 = in_bfloat16(random_array(g = std::mt19937(seed), DType::kFloat32, w1.count, 1), DType::kBFloat16);
  Array r2 = in_bfloat16(random_array(g, DType::kFloat32, w2.count, 1), DType::kBFloat16);
  Floats packed[2] = {Floats(Kernel::packed_floats(shape)), Floats(Kernel::packed_floats(shape))};
  weights.w1 = w1.view(), weights.w2 = w2.view();
  Kernel::pack(shape, weights, packed[0].data(), parallel);
  weights.w1 = r1.view(), weights.w2 = r2.view();
  Kernel::pack(shape, weights, packed[1].data(), parallel);
  return std::memcmp(packed[0].data(), packed[1].data(), packed[0].size() * sizeof(float)) == 0;
}

bool failed(const Problem& p, int seed) {
  std::mt19937 g(seed);
  const int64_t rows = p.offsets.back(), groups = static_cast<int64_t>(p.offsets.size()) - 1, c = p.c_in;
  const int64_t k = p.hidden, o = p.c_out;
  const double eps = 1e-6;
  Array u = random_array(g, p.dtype, rows * c, 1), w1 = random_array(g, p.param_dtype, k * c, 1 / std::sqrt(c));
  Array b1 = random_array(g, p.param_dtype, k, .3), gamma = random_array(g, p.param_dtype, k, .5);
  Array beta = random_array(g, p.param_dtype, k, .5), w2 = random_array(g, p.param_dtype, o * k, 1 / std::sqrt(k));
  Array b2 = random_array(g, p.param_dtype, o, .3), residual = random_array(g, p.dtype, rows * o, 1);
  Array dy = random_array(g, p.dtype, rows * o, 1), y(p.dtype, rows * o), du(p.dtype, rows * c);
  Array row_scale = random_array(g, DType::kFloat32, rows, 1);
  const bool pairs = kPairs && p.dtype == DType::kBFloat16;
  if (pairs) w1 = in_bfloat16(std::move(w1), p.param_dtype), w2 = in_bfloat16(std::move(w2), p.param_dtype);
  const Parallel parallel = threads(p.threads);
  const MlpGrnShape shape{{rows, groups, 0, p.offsets.data()}, c, k, o, static_cast<float>(eps), p.held_bytes, p.dtype};
  const MlpGrnWeights weights{w1.view(), b1.view(), beta.view(), w2.view(), b2.view()};
  Floats packed(Kernel::packed_floats(shape)), norm(groups * k, NAN);
  Kernel::pack(shape, weights, packed.data(), parallel);
  MlpGrnForward f{};
  f.shape = shape, f.u = u.view(), f.packed = packed.data(), f.gamma = gamma.view();
  f.residual = p.residual ? residual.bytes.get() : nullptr;
  f.row_scale = p.scaled ? reinterpret_cast<const float*>(row_scale.bytes.get()) : nullptr;
  f.scale_rows = 1, f.y = y.bytes.get(), f.y_dtype = p.dtype, f.norm = norm.data();
  Floats saved_hidden(rows * saved_columns(k), NAN);
  f.saved_hidden = seed % 2 == 0 ? saved_hidden.data() : nullptr;
  Kernel::forward(f, parallel);
  Floats dw1(k * c, NAN), db1(k, NAN), dgamma(k, NAN), dbeta(k, NAN), dw2(o * k, NAN), db2(o, NAN);
  MlpGrnBackward b{};
  b.shape = shape, b.weights = weights, b.dy = dy.view(), b.u = u.view(), b.gamma = gamma.view(), b.norm = norm.data();
  b.saved_hidden = f.saved_hidden;
  b.du = du.bytes.get(), b.dw1 = dw1.data(), b.db1 = db1.data(), b.dgamma = dgamma.data(), b.dbeta = dbeta.data();
  b.dw2 = dw2.data(), b.db2 = db2.data();
  Kernel::backward(b, parallel);

  // The same in double precision, row by row.
  const Doubles U = u.values(), W1 = w1.values(), B1 = b1.values(), G = gamma.values(), B = beta.values();
  const Doubles W2 = w2.values(), B2 = b2.values(), R = residual.values(), D = dy.values(), S = row_scale.values();
  Doubles Y(rows * o), DU(rows * c), DW1(k * c), DB1(k), DG(k), DB(k), DW2(o * k), DB2(o), N(groups * k);
  for (int64_t q = 0; q < groups; ++q) {
    const int64_t first = p.offsets[q], count = p.offsets[q + 1] - first;
    Doubles h(count * k), a(count * k), dv(count * k), n(k), P(k);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < k; ++j) {
        double sum = B1[j], back = 0;
        for (int64_t i = 0; i < c; ++i) sum += U[(first + r) * c + i] * W1[j * c + i];
        for (int64_t i = 0; i < o; ++i) back += D[(first + r) * o + i] * W2[i * k + j];
        h[r * k + j] = sum, a[r * k + j] = gelu(sum), dv[r * k + j] = back;
        n[j] += a[r * k + j] * a[r * k + j];
        P[j] += back * a[r * k + j];
      }
    }
    double mean = 0, shared = 0;
    for (int64_t j = 0; j < k; ++j) n[j] = std::sqrt(n[j]), mean += n[j] / k, N[q * k + j] = n[j];
    const double m = mean + eps;
    for (int64_t j = 0; j < k; ++j) shared += G[j] * P[j] * n[j];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = first + r;
      Doubles v(k), dh(k);
      for (int64_t j = 0; j < k; ++j) {
        const double s = 1 + G[j] * n[j] / m, x = a[r * k + j];
        v[j] = x * s + B[j];
        const double dn = G[j] * P[j] / m - shared / (m * m * k);
        dh[j] = (dv[r * k + j] * s + (n[j] > 0 ? x * dn / n[j] : 0)) * slope(h[r * k + j]);
        DB[j] += dv[r * k + j], DB1[j] += dh[j];
        for (int64_t i = 0; i < c; ++i)
          DU[row * c + i] += dh[j] * W1[j * c + i], DW1[j * c + i] += dh[j] * U[row * c + i];
      }
      for (int64_t i = 0; i < o; ++i) {
        double sum = B2[i];
        for (int64_t j = 0; j < k; ++j) sum += v[j] * W2[i * k + j], DW2[i * k + j] += D[row * o + i] * v[j];
        DB2[i] += D[row * o + i];
        Y[row * o + i] = sum * (p.scaled ? S[row] : 1) + (p.residual ? R[row * o + i] : 0);
      }
    }
    for (int64_t j = 0; j < k; ++j) DG[j] += P[j] * n[j] / m;
  }
  const double limit = p.dtype == DType::kFloat32 ? 2e-6 : p.dtype == DType::kBFloat16 ? 8e-3 : 1e-3;
  double y_limit = limit, du_limit = limit, dw1_limit = 4e-6,
         dw2_limit = k * o < 16 ? 8e-6 : 4e-6;  // of few sums over all rows, each may nearly cancel
  double norm_limit = 2e-6, db1_limit = 4e-6, dgamma_limit = 4e-6;
  bool bad = false;
  if (pairs) {
    PlainMlpGrn simple{p.offsets, c, k, o, U, W1, B1, G, B, W2, B2, D, eps, {}, {}, {}, {}};
    simple.run();
    for (size_t i = 0; i < simple.y.size(); ++i) {
      if (p.scaled) simple.y[i] = rounded(simple.y[i] * rounded(S[i / o]));
      if (p.residual) simple.y[i] = rounded(simple.y[i] + R[i]);
    }
    y_limit = 2 * difference(simple.y, Y) + 1. / 256;
    du_limit = difference(simple.du, DU) + (rows * c < 16 ? 1. / 64 : 1. / 512);  // of few sums
    dw1_limit = difference(simple.dw1, DW1) + 1. / 512;
    dw2_limit = difference(simple.dw2, DW2) + 1. / 512;
    norm_limit = 4e-4, dgamma_limit = 1e-3, db1_limit = 5e-4;  // Bfloat16Gelu
    bad = !rounds_weights(shape, weights, seed, parallel);
    if (bad) std::printf("C %ld K %ld: weights are not rounded to bfloat16\n", c, k);
  }
  const std::pair<const char*, double> errors[] = {
      {"y", difference(y.values(), Y) / y_limit},     {"norm", difference(of(norm), N) / norm_limit},
      {"du", difference(du.values(), DU) / du_limit}, {"dw1", difference(of(dw1), DW1) / dw1_limit},
      {"db1", difference(of(db1), DB1) / db1_limit},  {"dgamma", difference(of(dgamma), DG) / dgamma_limit},
      {"dbeta", difference(of(dbeta), DB) / 4e-6},    {"dw2", difference(of(dw2), DW2) / dw2_limit},
      {"db2", difference(of(db2), DB2) / 4e-6}};
  for (const auto& [name, error] : errors) {
    if (error <= 1) continue;
    std::printf("rows %ld groups %ld C %ld K %ld C' %ld dtype %d held %ld threads %d: %s off by %.2g limits\n", rows,
                groups, c, k, o, static_cast<int>(p.dtype), p.held_bytes, p.threads, name, error);
    bad = true;
  }
  return bad;
}

#ifdef CNV2_COUNTED_PRODUCTS
// The gradients of the same problem on one thread and on several, bit for bit; and how many instructions multiply
// pairs. All sizes are multiples of a tile's, so that each multiply-add of the five products has its place in one
// instruction.
bool counts_or_threads_failed() {
  constexpr int64_t kRows = 448, kIn = 32, kHidden = 96, kOut = 64;
  constexpr int64_t kProducts = kRows * kHidden * (3 * kIn + 2 * kOut);  // h, du, dw1; dv, dw2
  const int offsets[] = {0, 224, kRows};
  std::mt19937 g(1);
  const auto array = [&](int64_t count) { return random_array(g, DType::kBFloat16, count, .3); };
  Array u = array(kRows * kIn), dy = array(kRows * kOut), w1 = array(kHidden * kIn), w2 = array(kOut * kHidden);
  Array vector = array(kHidden);
  const Floats norm(2 * kHidden, 1.f);
  Floats first;
  bool bad = false;
  for (int count : {1, 2, 3}) {
    const Parallel parallel = threads(count);
    Array du(DType::kBFloat16, kRows * kIn);
    Floats out(2 * kHidden * (kIn + kOut) + 3 * kHidden + kOut, NAN);
    MlpGrnBackward b{};
    b.shape = {{kRows, 2, 0, offsets}, kIn, kHidden, kOut, 1e-6f, int64_t{1} << 40, DType::kBFloat16};
    b.weights = {w1.view(), vector.view(), vector.view(), w2.view(), {nullptr, DType::kFloat32}};
    b.dy = dy.view(), b.u = u.view(), b.gamma = vector.view(), b.norm = norm.data(), b.du = du.data();
    b.dw1 = out.data(), b.dw2 = b.dw1 + kHidden * kIn, b.db1 = b.dw2 + kHidden * kOut, b.dgamma = b.db1 + kHidden;
    b.dbeta = b.dgamma + kHidden, b.db2 = b.dbeta + kHidden, out.resize(b.db2 + kOut - out.data());
    emulated::products = 0;
    Kernel::backward(b, parallel);
    const int64_t expected = kProducts / emulated::kProductsOfInstruction;
    if (emulated::products != expected) {
      std::printf("%d threads: %ld instructions, not %ld\n", count, emulated::products.load(), expected);
      bad = true;
    }
    du.each([&](int64_t, auto& v) { out.push_back(to_float(v)); });
    if (first.empty()) first = out;
    if (std::memcmp(first.data(), out.data(), out.size() * sizeof(float)) != 0) {
      std::printf("%d threads: other gradients than one thread\n", count);
      bad = true;
    }
  }
  return bad;
}
#else
bool counts_or_threads_failed() { return false; }
#endif

}  // namespace
}  // namespace cnv2

int main() {
  using namespace cnv2;
  detect_cpu_isa();  // the operating system gives tile registers to those who ask
  const std::vector<std::vector<int>> groups = {{0, 1}, {0, 5, 5, 9}, {0, 49, 98, 147}, {0, 30, 31, 150}, {0}, {0, 0}};
  const int64_t widths[][3] = {{1, 4, 1}, {8, 32, 8}, {33, 65, 17}, {40, 160, 40}, {130, 300, 70}};
  int problems = 0, failures = 0;
  const auto try_all = [&](const std::vector<int>& offsets, const int64_t (&w)[3]) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      if (kPairs && dtype != DType::kBFloat16 && w[1] > 32) continue;  // checked as floats
      // 0: every group larger than a row block in slices, twice.
      for (int64_t held : {int64_t{0}, int64_t{1} << 40}) {
        const int threads = 1 + problems % 3;
        const DType params = problems % 2 ? dtype : DType::kFloat32;
        failures += failed(
            {offsets, w[0], w[1], w[2], dtype, params, held, threads, problems % 4 < 2, problems % 5 < 3}, problems);
        ++problems;
      }
    }
  };
  for (const auto& offsets : groups) {
    for (const auto& w : widths) try_all(offsets, w);
  }
  try_all({0, 400}, {9, 401, 17});      // GRN's scale goes to w2
  try_all({0, 9, 20}, {450, 770, 40});  // products in several slices
  failures += counts_or_threads_failed();
  std::printf("%d problems, %d failed\n", problems, failures);
  return failures != 0;
}
