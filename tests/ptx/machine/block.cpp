// Blocks one after the other, and the warps of a block by turns.
#include "block.h"

#include <algorithm>
#include <numeric>

namespace ptx {
namespace {

constexpr size_t kMostFaults = 100;  // that are told apart
constexpr int kTurn = 1 << 16;       // instructions of a warp until the next one has a turn

void fill(Warp& warp, const Special& special) {
  const Block& block = warp.block;
  const Launch& launch = block.launch;
  uint64_t* to = warp.lanes(special.reg);
  const std::string& name = special.name;
  const uint32_t* size = launch.threads;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t thread = warp.index * kLanes + lane;
    const uint32_t place[3] = {thread % size[0], thread / size[0] % size[1], thread / size[0] / size[1]};
    const int axis = name.back() - 'x';
    uint32_t value = 0;
    if (name.starts_with("%tid."))
      value = place[axis];
    else if (name.starts_with("%ntid."))
      value = size[axis];
    else if (name.starts_with("%ctaid."))
      value = block.index[axis];
    else if (name.starts_with("%nctaid."))
      value = launch.grid[axis];
    else if (name == "%laneid")
      value = lane;
    else if (name == "%warpid")
      value = warp.index;
    else if (name == "%nwarpid")
      value = block.warps.size();
    else if (name == "%lanemask_eq")
      value = 1u << lane;
    else if (name == "%lanemask_lt")
      value = (1u << lane) - 1;
    else if (name == "%lanemask_le")
      value = (1u << lane) - 1 + (1u << lane);
    else if (name == "%lanemask_gt")
      value = ~((1u << lane) - 1 + (1u << lane));
    else if (name == "%lanemask_ge")
      value = ~((1u << lane) - 1);
    else if (name == "%dynamic_smem_size")
      value = launch.dynamic_shared;
    else if (name == "%total_smem_size")
      value = block.shared.size();
    else if (name == "%cluster_nctarank" || name == "%nsmid")
      value = 1;
    to[lane] = value;  // %cluster_ctarank, %smid, %gridid: 0
  }
}

void start(Warp& warp, uint32_t threads) {
  const uint32_t left = threads - warp.index * kLanes;
  warp.live = warp.mask = left >= kLanes ? kAll : (1u << left) - 1;
  for (const Special& special : warp.block.launch.kernel.specials) fill(warp, special);
}

// Instructions of a warp until it waits, has left, or others have waited long enough for it.
void take_turn(Warp& warp) {
  Launch& launch = warp.block.launch;
  const Instruction* code = launch.kernel.code.data();
  uint64_t* classes = launch.counts.classes;
  warp.yields = false;
  int done = 0;
  while (done < kTurn && warp.state == Warp::Ready && !warp.yields) {
    if (warp.pc >= warp.limit) {
      warp.choose();
      continue;
    }
    ++done;
    const Instruction& i = code[warp.pc++];
    warp.active = warp.mask;
    if (i.guard >= 0) {
      const uint64_t* guard = warp.lanes(i.guard);
      uint32_t bits = 0;
      for (int lane = 0; lane < kLanes; ++lane) bits |= uint32_t(guard[lane] & 1) << lane;
      warp.active &= i.guard_negated ? ~bits : bits;
      if (!warp.active) continue;
    }
    warp.current = &i;
    ++classes[int(i.counted)];
    i.run(warp, i);
  }
  launch.executed += done;
}

}  // namespace

void Block::run() {
  std::vector<int> order(warps.size());
  std::iota(order.begin(), order.end(), 0);
  for (;;) {
    if (launch.options.seed) std::shuffle(order.begin(), order.end(), launch.random);
    bool ran = false, all = true;
    for (int number : order) {
      Warp& warp = warps[number];
      if (warp.state == Warp::Ready) {
        take_turn(warp);
        ran = true;
        if (warp.state == Warp::Done) finish(*this);
        if (launch.stop) return;
      }
      all &= warp.state == Warp::Done;
    }
    if (all) return;
    if (!ran) {
      std::string text;
      const Warp* first = nullptr;
      for (Warp& warp : warps) {
        if (warp.state != Warp::AtBarrier) continue;
        if (!first) first = &warp;
        text += (text.empty() ? "warp " : ", warp ") + std::to_string(warp.index) + " at barrier " +
                std::to_string(warp.barrier) + " in line " + std::to_string(warp.current->line);
      }
      fault(const_cast<Warp&>(*first), 0, "deadlock", text + " for ever");
      launch.stop = true;
      return;
    }
    if (launch.options.most_instructions && launch.executed > launch.options.most_instructions) {
      for (Warp& warp : warps)
        if (warp.state != Warp::Done && !launch.stop) {
          fault(warp, 0, "hang", "more than " + std::to_string(launch.options.most_instructions) + " instructions");
          launch.stop = true;
        }
      return;
    }
  }
}

void run(Launch& launch) {
  const uint32_t threads = launch.threads[0] * launch.threads[1] * launch.threads[2];
  const int warps = (threads + kLanes - 1) / kLanes;
  const size_t registers = size_t{kLanes} * launch.kernel.registers;
  std::vector<Lanes> memory(size_t{1} * launch.kernel.registers * warps);
  std::vector<uint8_t> local(size_t{kLanes} * launch.kernel.local_bytes * warps);
  std::vector<uint32_t> order(launch.blocks());
  std::iota(order.begin(), order.end(), 0);
  if (launch.options.seed) std::shuffle(order.begin(), order.end(), launch.random);
  Block block(launch);
  block.shared.resize(launch.kernel.static_shared + launch.dynamic_shared);
  for (uint32_t number : order) {
    block.number = number;
    block.index[0] = number % launch.grid[0];
    block.index[1] = number / launch.grid[0] % launch.grid[1];
    block.index[2] = number / launch.grid[0] / launch.grid[1];
    block.barriers = {};
    for (auto& state : block.family) state.reset();
    std::fill(block.shared.begin(), block.shared.end(), 0xff);  // not a number
    if (launch.checks()) block.shadow.start(warps, block.shared.size());
    block.warps.clear();
    for (int k = 0; k < warps; ++k) {
      Warp& warp = block.warps.emplace_back(block, k);
      warp.registers = memory.empty() ? nullptr : memory[0].values + registers * k;
      warp.local = local.data() + size_t{kLanes} * launch.kernel.local_bytes * k;
    }
    for (Warp& warp : block.warps) start(warp, threads);
    block.run();
    if (launch.stop) return;
  }
}

void fault(Warp& warp, int lane, const char* kind, std::string text) {
  Launch& launch = warp.block.launch;
  const int line = warp.current ? warp.current->line : 0;
  for (Fault& known : launch.faults) {
    if (known.line == line && known.kind == kind) {
      ++known.times;
      return;
    }
  }
  if (launch.faults.size() >= kMostFaults) return;
  const uint32_t* block = warp.block.index;
  launch.faults.push_back({kind, std::move(text), line, {block[0], block[1], block[2]}, warp.index, lane, 1});
}

}  // namespace ptx
