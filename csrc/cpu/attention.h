// The last step of every attention gradient.
#pragma once

#include "cpu/products.h"

namespace multimix {
namespace MULTIMIX_ISA {

// With mu_i = a_i plain_i and sum_i mu_i = 1: adds d loss / d a_i = plain_i (g_i - sum_j mu_j g_j) over the rows, from
// g = d loss / d mu (rows, b).
template <class Real>
void add_centred(int64_t rows, int64_t b, const Real* mu, const Real* plain, int64_t stride, const Panels<Real>& g,
                 Real* grad_attention) {
  for (int64_t row = 0; row < rows; ++row) {
    const Real *m = mu + row * stride, *l = plain + row * stride;
    Real mean = 0;
    for (int64_t i = 0; i < b; ++i) mean += m[i] * *g.at(row, i);
    for (int64_t i = 0; i < b; ++i) grad_attention[i] += l[i] * (*g.at(row, i) - mean);
  }
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
