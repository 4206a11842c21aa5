// mma.sync (PTX ISA 9.7.14.5.14, "Multiply-and-Accumulate Instruction: mma").
#include "block.h"
#include "family.h"
#include "fragments.h"

namespace ptx {
namespace {

constexpr int kMost = 16;  // elements along k

struct Product {
  Element element;
  int k;
};

// PTX leaves the low 13 bits of TF32 operands undefined; of a NaN nobody looks at them.
void expect_tf32(Warp& warp, const Operand& vector) {
  for (const Operand& part : vector.parts) {
    const uint64_t* lanes = warp.values(part);
    for (int lane = 0; lane < kLanes; ++lane)
      if (const float x = as<float>(lanes[lane]); (lanes[lane] & 0x1fff) != 0 && x == x)
        fault(warp, lane, "not rounded", "an operand is no number of TF32");
  }
}

void mma(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  const Product product = {Element(i.data[0]), int(i.data[1])};
  if (product.element == Element::TF32 && warp.block.launch.options.check & 4)
    expect_tf32(warp, i[1]), expect_tf32(warp, i[2]);
  float a[16 * kMost], b[kMost * 8], d[16 * 8];
  read_a(warp, i[1], product.element, product.k, a);
  read_b(warp, i[2], product.element, b);
  read_d(warp, i[3], 8, d);
  const FusedSum how = fused_sum(architecture_of(warp.block.launch.module.target), product.element, product.k);
  multiply(how, product.element, 16, 8, product.k, a, b, d);
  write_d(warp, i[0], 8, d);
}

Run decode_mma(Instruction& i) {
  Suffixes suffixes{i};
  if (!suffixes.take("sync") || !suffixes.take("aligned")) return nullptr;
  const int shape = suffixes.take_one({"m16n8k4", "m16n8k8", "m16n8k16"});
  if (shape < 0 || !suffixes.take("row") || !suffixes.take("col") || !suffixes.take("f32")) return nullptr;
  const int type = suffixes.take_one({"bf16", "f16", "tf32"});
  if (type < 0 || !suffixes.take(std::array{"bf16", "f16", "tf32"}[type]) || !suffixes.take("f32") || !suffixes.done())
    return nullptr;
  const Element element = std::array{Element::BF16, Element::F16, Element::TF32}[type];
  const int k = 4 << shape;
  if (element == Element::TF32 ? k > 8 : k < 8) return nullptr;
  const size_t units = size_t(k / elements_of_unit(element)) / 4;
  if (i.operands.size() != 4 || !is_vector(i[0], 4) || !is_vector(i[1], 2 * units) || !is_vector(i[2], units) ||
      !is_vector(i[3], 4))
    return nullptr;
  i.data[0] = int64_t(element);
  i.data[1] = k;
  i.counted = Class::Matrix;
  return mma;
}

Family family({"mma"}, decode_mma);

}  // namespace
}  // namespace ptx
