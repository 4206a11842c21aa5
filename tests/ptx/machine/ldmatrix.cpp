// ldmatrix and stmatrix (PTX ISA 9.7.14.5.15 and 9.7.14.5.16): one, two or four 8 x 8 matrices of 16-bit elements,
// whose rows of 16 bytes lie anywhere in shared memory; lane 8 i + j names row j of matrix i.
#include "family.h"
#include "fragments.h"
#include "memory.h"

namespace ptx {
namespace {

constexpr int kRow = 16;  // bytes

struct Rows {
  uint16_t elements[kLanes][8];
};

// Of the transposed matrix: (2 t, g) and (2 t + 1, g).
uint32_t pair(const Rows& rows, int matrix, int lane, bool transposed) {
  const int g = group_of(lane), t = member_of(lane);
  const auto& of = rows.elements + 8 * matrix;
  const uint32_t low = transposed ? of[2 * t][g] : of[g][2 * t],
                 high = transposed ? of[2 * t + 1][g] : of[g][2 * t + 1];
  return low | high << 16;
}

void set_pair(Rows& rows, int matrix, int lane, bool transposed, uint32_t both) {
  const int g = group_of(lane), t = member_of(lane);
  const auto of = rows.elements + 8 * matrix;
  (transposed ? of[2 * t][g] : of[g][2 * t]) = uint16_t(both);
  (transposed ? of[2 * t + 1][g] : of[g][2 * t + 1]) = uint16_t(both >> 16);
}

// Of the rows of `count` matrices.
Accesses accesses_of(Warp& warp, const Operand& address, int count, Intent intent) {
  Accesses accesses;
  accesses.space = Space::Shared;
  accesses.good = count == 4 ? kAll : (1u << 8 * count) - 1;
  for (int lane = 0; lane < kLanes; ++lane)
    accesses.address[lane] = uint32_t((address.reg < 0 ? 0 : warp.lanes(address.reg)[lane]) + address.offset);
  prepare(warp, accesses, kRow, intent);
  return accesses;
}

// Lanes read the elements that they get, whoever names their rows.
void note_elements(Warp& warp, const Accesses& rows, int count, bool transposed) {
  Accesses read;
  read.space = Space::Shared;
  for (int matrix = 0; matrix < count; ++matrix)
    for (int half = 0; half < (transposed ? 2 : 1); ++half) {
      read.good = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int g = group_of(lane), t = member_of(lane), row = 8 * matrix + (transposed ? 2 * t + half : g);
        read.address[lane] = rows.address[row] + (transposed ? 2 * g : 4 * t);
        read.good |= (rows.good >> row & 1) << lane;
      }
      note(warp, read, transposed ? 2 : 4, Intent::Read);
    }
}

void ldmatrix(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  Rows rows = {};
  const int count = int(i[0].parts.size());
  const Accesses accesses = accesses_of(warp, i[1], count, Intent::Read);
  if (warp.block.launch.checks()) note_elements(warp, accesses, count, i.data[0]);
  for (int lane = 0; lane < 8 * count; ++lane)
    if (accesses.good >> lane & 1) std::memcpy(rows.elements[lane], accesses.host[lane], kRow);
  for (int matrix = 0; matrix < count; ++matrix) {
    uint64_t* d = warp.lanes(i[0].parts[matrix].reg);
    for (int lane = 0; lane < kLanes; ++lane) d[lane] = pair(rows, matrix, lane, i.data[0]);
  }
}

void stmatrix(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  Rows rows;
  const int count = int(i[1].parts.size());
  for (int matrix = 0; matrix < count; ++matrix) {
    const uint64_t* values = warp.values(i[1].parts[matrix]);
    for (int lane = 0; lane < kLanes; ++lane) set_pair(rows, matrix, lane, i.data[0], uint32_t(values[lane]));
  }
  const Accesses accesses = accesses_of(warp, i[0], count, Intent::Write);
  for (int lane = 0; lane < 8 * count; ++lane)
    if (accesses.good >> lane & 1) std::memcpy(accesses.host[lane], rows.elements[lane], kRow);
  settle(warp);
}

// .sync.aligned.m8n8.num{.trans}{.shared{::cta}}.b16
int matrices(Instruction& i) {
  Suffixes suffixes{i};
  if (!suffixes.take("sync") || !suffixes.take("aligned") || !suffixes.take("m8n8")) return 0;
  const int count = suffixes.take_one({"x1", "x2", "x4"});
  i.data[0] = suffixes.take("trans");
  if (suffixes.take_one({"shared", "shared::cta"}) < 0 || !suffixes.take("b16") || !suffixes.done()) return 0;
  i.counted = Class::Shared;
  return count < 0 ? 0 : 1 << count;
}

Run decode_ldmatrix(Instruction& i) {
  const int count = matrices(i);
  if (!count || i.operands.size() != 2 || !is_vector(i[0], count) || i[1].kind != Operand::Address) return nullptr;
  return ldmatrix;
}

Run decode_stmatrix(Instruction& i) {
  const int count = matrices(i);
  if (!count || i.operands.size() != 2 || !is_vector(i[1], count) || i[0].kind != Operand::Address) return nullptr;
  return stmatrix;
}

Family loads({"ldmatrix"}, decode_ldmatrix), stores({"stmatrix"}, decode_stmatrix);

}  // namespace
}  // namespace ptx
