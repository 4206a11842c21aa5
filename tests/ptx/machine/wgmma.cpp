// wgmma (PTX ISA 9.7.15, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions") and fence.proxy.async
// (9.7.13.4). Each of the four warps computes its 16 rows when it comes to the instruction; until the wait, its results
// are not to be read and its operands not to be written: see wgmma_watch.cpp and Products::reads.
#include "wgmma.h"

#include <algorithm>

#include "family.h"
#include "fragments.h"

namespace ptx {
namespace {

constexpr int kWarpgroup = 4;
constexpr int kRows = 16;     // of a warp
constexpr int kChunk = 16;    // bytes that lie together in every layout
constexpr int kUnitsOfK = 8;  // 32 bits each
constexpr int kMostColumns = 256;

// A matrix in shared memory (9.7.15.5.1.2, "Shared Memory Matrix Layout", and "Matrix Descriptor Format"). Rows of
// 2^swizzle chunks make groups of eight; bits 4.. of an address are xored with bits 7.., as many as there are of the
// swizzle.
struct Descriptor {
  uint32_t start, leading, stride;
  int swizzle;  // 0: none, 1: 32 bytes, 2: 64, 3: 128

  explicit Descriptor(uint64_t bits)
      : start(uint32_t(bits & 0x3fff) << 4),
        leading(uint32_t(bits >> 16 & 0x3fff) << 4),
        stride(uint32_t(bits >> 32 & 0x3fff) << 4),
        swizzle(int((4 - (bits >> 62)) & 3)) {}

  uint32_t swizzled(uint32_t address) const { return address ^ (address >> 3 & ((1u << swizzle) - 1) << 4); }

  // The chunk of row `row` whose elements are neighbours along k; chunk 0 or 1 of the product's 32 bytes.
  uint32_t along_k(int row, int chunk) const {
    const uint32_t pitch = kChunk << swizzle;
    const uint32_t next = swizzle ? kChunk : leading;
    return swizzled(start + row / 8 * stride + row % 8 * pitch + chunk * next);
  }

  // The chunk of eight neighbouring rows, at element k of the product's 16: of a transposed matrix.
  uint32_t across_k(int rows, int k) const {
    if (swizzle == 0) return start + rows * stride + k / 8 * leading + k % 8 * kChunk;
    const uint32_t pitch = kChunk << swizzle;
    return swizzled(start + (rows >> swizzle) * leading + k / 8 * stride + k % 8 * pitch +
                    rows % (1 << swizzle) * kChunk);
  }
};

struct Shape {
  Element element;
  int n;
  bool a_in_registers, transposed_a, transposed_b;
  float scale_a, scale_b;

  int k() const { return kUnitsOfK * elements_of_unit(element); }
};

// By fence.proxy.async of the warp that wrote, after it wrote, or of this one, after the write was ordered before it.
bool is_fenced(Warp& warp, uint32_t address) {
  const SharedShadow& shadow = warp.block.shadow;
  const uint32_t writer = shadow.writer[address] / kLanes;
  const WarpProducts& own = products_of(warp);
  if (products_of(warp.block).warps[writer].proxy_fence >= shadow.instruction[address]) return true;
  if (int(writer) == warp.index) return false;
  return writer < own.proxy_known.size() && own.proxy_known[writer] >= shadow.written[address];
}

void read_chunk(Warp& warp, Reads& reads, uint32_t address, void* out) {
  load(warp, 0, Space::Shared, address, out, kChunk);
  if (!warp.block.launch.checks()) return;
  reads.rows.push_back(address);
  if (size_t(address) + kChunk > warp.block.shared.size()) return;
  for (int byte = 0; byte < kChunk; byte += 4)
    if (warp.block.shadow.written[address + byte] >= warp.block.shadow.begin && !is_fenced(warp, address + byte)) {
      fault(warp, 0, "missing fence.proxy.async", "wgmma reads shared memory written without one");
      return;
    }
}

// `rows` rows from `first` on; the element at (row, k) goes to out[row * row_step + k * k_step].
void read_matrix(Warp& warp, const Shape& shape, Reads& reads, uint64_t bits, bool transposed, int first, int rows,
                 int row_step, int k_step, float* out) {
  const Descriptor descriptor(bits);
  const int each = elements_of_unit(shape.element), in_chunk = 4 * each;
  uint32_t chunk[kChunk / 4];
  const auto element = [&](int e) { return element_of_unit(shape.element, chunk[e / each], e % each); };
  if (transposed) {
    for (int group = 0; group < rows / 8; ++group)
      for (int k = 0; k < shape.k(); ++k) {
        read_chunk(warp, reads, descriptor.across_k(first / 8 + group, k), chunk);
        for (int e = 0; e < 8; ++e) out[(8 * group + e) * row_step + k * k_step] = element(e);
      }
  } else {
    for (int row = 0; row < rows; ++row)
      for (int half = 0; half < 2; ++half) {
        read_chunk(warp, reads, descriptor.along_k(first + row, half), chunk);
        for (int e = 0; e < in_chunk; ++e) out[row * row_step + (half * in_chunk + e) * k_step] = element(e);
      }
  }
}

void keep(Warp& warp, Reads&& reads) {
  if (!warp.block.launch.checks()) return;
  auto& pending = warp.block.shadow.pending;
  for (uint32_t row : reads.rows)
    if (size_t(row) + kChunk <= pending.size()) std::fill_n(pending.begin() + row, kChunk, 2);
  products_of(warp.block).reads.push_back(std::move(reads));
}

// Operands: D, A, B, scale-d, then immediates.
void product(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  const Shape& shape = *static_cast<const Shape*>(i.more.get());
  WarpProducts& state = products_of(warp);
  Reads reads{warp.index, state.groups, {}};
  const int n = shape.n, k = shape.k(), row = warp.index % kWarpgroup * kRows;
  float a[kRows * 16], b[16 * kMostColumns], d[kRows * kMostColumns] = {};
  if (shape.a_in_registers) {
    read_a(warp, i[1], shape.element, k, a);
  } else {
    read_matrix(warp, shape, reads, warp.values(i[1])[0], shape.transposed_a, row, kRows, k, 1, a);
  }
  read_matrix(warp, shape, reads, warp.values(i[2])[0], shape.transposed_b, 0, n, 1, n, b);
  for (int e = 0; e < kRows * k; ++e) a[e] *= shape.scale_a;
  for (int e = 0; e < k * n; ++e) b[e] *= shape.scale_b;
  if (warp.bits(i[3]) & 1) read_d(warp, i[0], n, d);
  multiply(fused_sum(90, shape.element, k), shape.element, kRows, n, k, a, b, d);
  write_d(warp, i[0], n, d);
  keep(warp, std::move(reads));
}

void fence(Warp& warp, const Instruction&) {
  if (whole(warp)) ++products_of(warp).fences;
}

void commit(Warp& warp, const Instruction&) {
  if (!whole(warp)) return;
  WarpProducts& state = products_of(warp);
  ++state.groups;
  state.fenced = state.fences;
}

void wait(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  WarpProducts& state = products_of(warp);
  const uint32_t closed = state.groups - 1, left = uint32_t(i[0].bits);
  if (closed > left) state.finished = std::max(state.finished, closed - left);
  auto& all = products_of(warp.block).reads;
  auto& pending = warp.block.shadow.pending;
  const auto finished = [&](const Reads& reads) { return reads.warp == warp.index && !state.pending(reads.group); };
  const auto mark = [&](const Reads& reads, uint8_t value) {
    for (uint32_t row : reads.rows)
      if (size_t(row) + kChunk <= pending.size()) std::fill_n(pending.begin() + row, kChunk, value);
  };
  for (const Reads& reads : all)
    if (finished(reads)) mark(reads, 0);
  all.erase(std::remove_if(all.begin(), all.end(), finished), all.end());
  for (const Reads& reads : all) mark(reads, 2);
}

void fence_proxy(Warp& warp, const Instruction&) {
  const SharedShadow& shadow = warp.block.shadow;
  WarpProducts& state = products_of(warp);
  state.proxy_fence = shadow.number;
  if (shadow.known.empty()) return;
  const auto row = shadow.known.begin() + size_t(warp.index) * shadow.warps;
  state.proxy_known.assign(row, row + shadow.warps);
}

bool is_immediate(const Operand& operand) { return operand.kind == Operand::Immediate; }

// .mma_async.sync.aligned.m64nNkK.f32.type.type d, a, b, scale-d, imm-scale-a, imm-scale-b{, imm-trans-a}{,
// imm-trans-b}
Run decode_product(Instruction& i, Suffixes& suffixes) {
  const std::string name(suffixes.next());
  Shape shape = {};
  int k = 0, length = 0;
  if (std::sscanf(name.c_str(), "m64n%dk%d%n", &shape.n, &k, &length) != 2 || length != int(name.size()))
    return nullptr;
  if (shape.n < 8 || shape.n > kMostColumns || shape.n % 8) return nullptr;
  suffixes.take(name);
  if (!suffixes.take("f32")) return nullptr;
  const int type = suffixes.take_one({"bf16", "f16", "tf32"});
  if (type < 0 || !suffixes.take(std::array{"bf16", "f16", "tf32"}[type]) || !suffixes.done()) return nullptr;
  shape.element = std::array{Element::BF16, Element::F16, Element::TF32}[type];
  if (k != shape.k()) return nullptr;
  if (i.operands.size() < 3) return nullptr;
  shape.a_in_registers = i[1].kind == Operand::Vector;
  const size_t transposes = shape.element == Element::TF32 ? 0 : shape.a_in_registers ? 1 : 2;
  if (i.operands.size() != 6 + transposes || !is_vector(i[0], size_t(shape.n) / 2) || !is_value(i[2])) return nullptr;
  if (shape.a_in_registers ? !is_vector(i[1], 4) : !is_value(i[1])) return nullptr;
  if (!is_value(i[3])) return nullptr;
  for (size_t operand = 4; operand < i.operands.size(); ++operand)
    if (!is_immediate(i[int(operand)])) return nullptr;
  shape.scale_a = float(int32_t(i[4].bits));
  shape.scale_b = float(int32_t(i[5].bits));
  if (std::abs(shape.scale_a) != 1.0f || std::abs(shape.scale_b) != 1.0f) return nullptr;
  if (transposes == 2) shape.transposed_a = i[6].bits;
  if (transposes) shape.transposed_b = i.operands.back().bits;
  i.more = std::make_shared<Shape>(shape);
  i.counted = Class::Matrix;
  return product;
}

Run decode_wgmma(Instruction& i) {
  Suffixes suffixes{i};
  const int kind = suffixes.take_one({"fence", "commit_group", "wait_group", "mma_async"});
  if (kind < 0 || !suffixes.take("sync") || !suffixes.take("aligned")) return nullptr;
  if (kind == 3) return decode_product(i, suffixes);
  i.counted = Class::Asynchronous;
  if (!suffixes.done()) return nullptr;
  if (kind == 2) return i.operands.size() == 1 && is_immediate(i[0]) ? wait : nullptr;
  return i.operands.empty() ? kind == 0 ? fence : commit : nullptr;
}

Run decode_fence(Instruction& i) {
  Suffixes suffixes{i};
  if (!suffixes.take("proxy") || !suffixes.take("async")) return nullptr;
  suffixes.take_one({"shared::cta", "shared::cluster"});
  i.counted = Class::Asynchronous;
  return suffixes.done() && i.operands.empty() ? fence_proxy : nullptr;
}

Family products({"wgmma"}, decode_wgmma), fences({"fence"}, decode_fence);

}  // namespace

Products& products_of(Block& block) {
  auto& state = block.family[1];
  if (!state) {
    auto products = std::make_shared<Products>();
    products->warps.resize(block.warps.size());
    state = products;
  }
  return *static_cast<Products*>(state.get());
}

}  // namespace ptx
