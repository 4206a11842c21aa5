// Races and reads of what nobody wrote (PTX ISA, section 8, memory consistency: accesses that conflict need an order).
#include "shadow.h"

#include <algorithm>

#include "memory.h"

namespace ptx {
namespace {

constexpr uint32_t kMostTime = 1u << 25;  // times 64 it must fit 32 bits

std::string lane_name(uint32_t writer) {
  return "warp " + std::to_string(writer / kLanes) + " lane " + std::to_string(writer % kLanes);
}

std::string place(uint32_t address) { return "byte " + std::to_string(address) + " of shared memory"; }

// Bytes that are loaded and not used (PTX ISA, section 10, pragma used_bytes_mask).
bool unused(const Warp& warp, uint64_t byte) {
  return warp.current && warp.current->name == "ld" && byte < 32 && warp.current->data[3] >> byte & 1;
}

void check_read(Warp& warp, int lane, uint32_t at, bool used) {
  const SharedShadow& shadow = warp.block.shadow;
  const uint32_t own = warp.index * kLanes + lane, written = shadow.written[at], writer = shadow.writer[at];
  if (written < shadow.begin) {
    if (used) fault(warp, lane, "uninitialised", place(at) + " is read before it is written");
  } else if (writer / kLanes != own / kLanes) {
    if (written > shadow.known[warp.index * shadow.warps + writer / kLanes])
      fault(warp, lane, "race", place(at) + " is read, and written by " + lane_name(writer) + " without a barrier");
  } else if (writer != own && written >= shadow.warp_sync[warp.index]) {
    fault(warp, lane, "lane race",
          place(at) + " is read, and written by " + lane_name(writer) + " without bar.warp.sync");
  }
  if (shadow.pending[at] == 1)
    fault(warp, lane, "asynchronous copy", place(at) + " is read before the copy into it is waited for");
}

void note_shared_read(Warp& warp, int lane, uint32_t address, int bytes) {
  SharedShadow& shadow = warp.block.shadow;
  // What a check of the first byte says is true of all that were written at the same time by the same thread.
  const uint32_t *written = &shadow.written[address], first = written[0];
  const uint16_t *writer = &shadow.writer[address], one = writer[0];
  const uint8_t* pending = &shadow.pending[address];
  uint32_t different = 0;
  for (int k = 0; k < bytes; ++k) different |= (written[k] ^ first) | uint32_t(writer[k] ^ one) | pending[k];
  if (!different && first >= shadow.begin) {
    check_read(warp, lane, address, true);
  } else {
    for (int k = 0; k < bytes; ++k) check_read(warp, lane, address + k, !unused(warp, k));
  }
  const uint32_t sync = shadow.warp_sync[warp.index], own = lane, now = shadow.time * 64;
  uint32_t* read = &shadow.read[warp.index * shadow.bytes + address];
  for (int k = 0; k < bytes; ++k)
    read[k] = now + (read[k] / 64 >= sync && read[k] % 64 != own ? SharedShadow::kSeveral : own);
}

void doubt(Warp& warp, int lane, uint32_t at, int other) {
  warp.block.shadow.doubts.push_back({lane, at, warp.block.shared[at], other});
}

void note_shared_write(Warp& warp, int lane, uint32_t address, int bytes, bool atomic) {
  SharedShadow& shadow = warp.block.shadow;
  const uint32_t own = warp.index * kLanes + lane, sync = shadow.warp_sync[warp.index];
  const uint32_t* known = &shadow.known[size_t(warp.index) * shadow.warps];
  for (uint32_t at = address; at < address + bytes; ++at) {
    const uint32_t written = shadow.written[at], writer = shadow.writer[at];
    if (atomic && written < shadow.begin)
      fault(warp, lane, "uninitialised", place(at) + " is changed before it is written");
    if (written >= shadow.begin && !(atomic && shadow.atomic[at])) {
      if (writer / kLanes != own / kLanes) {
        if (written > known[writer / kLanes]) doubt(warp, lane, at, int(writer));
      } else if (writer != own && written >= sync && shadow.instruction[at] != shadow.number) {
        doubt(warp, lane, at, int(writer));
      }
    }
    if (shadow.pending[at])
      fault(warp, lane, "asynchronous copy",
            place(at) + " is written while an asynchronous " +
                (shadow.pending[at] == 1 ? "copy into it" : "read of it") + " is not waited for");
    shadow.written[at] = shadow.time;
    shadow.writer[at] = own;
    shadow.instruction[at] = shadow.number;
    shadow.atomic[at] = atomic;
  }
  for (int other = 0; other < shadow.warps; ++other) {
    const uint32_t* read = &shadow.read[other * shadow.bytes + address];
    const uint32_t least = other == warp.index ? sync : known[other] + 1;  // of reads that are not ordered
    uint32_t last = 0;
    for (int k = 0; k < bytes; ++k) last = std::max(last, read[k] / 64);
    if (last < least) continue;
    for (int k = 0; k < bytes; ++k)
      if (read[k] / 64 >= least && (other != warp.index || read[k] % 64 != uint32_t(lane)))
        doubt(warp, lane, address + k, -1 - other);
  }
}

void note_shared(Warp& warp, int lane, uint32_t address, int bytes, Intent intent) {
  if (intent == Intent::Read)
    note_shared_read(warp, lane, address, bytes);
  else
    note_shared_write(warp, lane, address, bytes, intent == Intent::Atomic);
}

std::string block_name(const Warp& warp, uint32_t block) {
  if ((block & GlobalShadow::kSeveral) == GlobalShadow::kSeveral) return "other blocks";
  const uint32_t number = (block & GlobalShadow::kSeveral) - 1, *grid = warp.block.launch.grid;
  return "block (" + std::to_string(number % grid[0]) + ", " + std::to_string(number / grid[0] % grid[1]) + ", " +
         std::to_string(number / grid[0] / grid[1]) + ")";
}

void note_global(Warp& warp, int lane, uint64_t address, int bytes, Intent intent) {
  const uint32_t own = uint32_t(warp.block.number) + 1;
  const uint32_t offset = address % GlobalShadow::kPage;
  GlobalShadow::Page& page = warp.block.launch.global.of(address);
  for (uint32_t at = offset; at < offset + bytes; ++at) {
    uint32_t &writer = page.writer[at], &reader = page.reader[at];
    const uint32_t wrote = writer & GlobalShadow::kSeveral;
    const bool atomic = intent == Intent::Atomic;
    if (wrote && wrote != own && !(atomic && (writer & GlobalShadow::kAtomic)))
      fault(warp, lane, "global race",
            std::string(intent == Intent::Read ? "reads" : "writes") + " what is written by " +
                block_name(warp, writer) + " of the same launch");
    if (intent == Intent::Read) {
      reader = reader && reader != own ? GlobalShadow::kSeveral : own;
      continue;
    }
    if (reader && reader != own)
      fault(warp, lane, "global race", "writes what is read by " + block_name(warp, reader) + " of the same launch");
    writer = !atomic ? own : (wrote && wrote != own ? GlobalShadow::kSeveral : own) | GlobalShadow::kAtomic;
  }
}

}  // namespace

void SharedShadow::start(int warp_count, size_t byte_count) {
  if (warps != warp_count || bytes != byte_count || time > kMostTime) {
    warps = warp_count;
    bytes = byte_count;
    time = number = 0;
    written.assign(bytes, 0);
    writer.assign(bytes, 0);
    instruction.assign(bytes, 0);
    atomic.assign(bytes, 0);
    read.assign(bytes * warps, 0);
  }
  pending.assign(bytes, 0);
  known.assign(size_t(warps) * warps, time);
  begin = ++time;
  warp_sync.assign(warps, time);
}

void SharedShadow::arrive(Clock& barrier, int warp) {
  barrier.resize(warps);
  const uint32_t* row = &known[size_t(warp) * warps];
  for (int other = 0; other < warps; ++other) barrier[other] = std::max(barrier[other], row[other]);
  barrier[warp] = std::max(barrier[warp], time);
  ++time;
}

void SharedShadow::pass(const Clock& barrier, int warp) {
  uint32_t* row = &known[size_t(warp) * warps];
  for (int other = 0; other < warps; ++other) row[other] = std::max(row[other], barrier[other]);
  warp_sync[warp] = time;
}

void SharedShadow::sync_warp(int warp) { warp_sync[warp] = ++time; }

GlobalShadow::Page& GlobalShadow::of(uint64_t address) {
  if (address / kPage != last || !page) {
    last = address / kPage;
    auto& found = pages[last];
    if (!found) found = std::make_unique<Page>();
    page = found.get();
  }
  return *page;
}

void settle(Warp& warp) {
  auto& doubts = warp.block.shadow.doubts;
  for (const SharedShadow::Doubt& doubt : doubts) {
    if (warp.block.shared[doubt.address] == doubt.before) continue;
    const bool stored = doubt.writer >= 0;
    const int other = stored ? doubt.writer / kLanes : -1 - doubt.writer;
    const std::string what = stored                ? "as by " + lane_name(doubt.writer)
                             : other == warp.index ? "and read by another lane of the warp"
                                                   : "and read by warp " + std::to_string(other);
    fault(warp, doubt.lane, other == warp.index ? "lane race" : "race",
          place(doubt.address) + " is written, " + what + " without " +
              (other == warp.index ? "bar.warp.sync" : "a barrier"));
  }
  doubts.clear();
}

void set_pending(Warp& warp, uint32_t address, int bytes, bool pending) {
  auto& all = warp.block.shadow.pending;
  for (size_t at = address; at < address + size_t(bytes) && at < all.size(); ++at) all[at] = pending;
}

void note(Warp& warp, const Accesses& accesses, int bytes, Intent intent) {
  if (accesses.space == Space::Shared) {
    if (intent != Intent::Read) ++warp.block.shadow.number;
    for (uint32_t left = accesses.good; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      note_shared(warp, lane, uint32_t(accesses.address[lane]), bytes, intent);
    }
  } else if (accesses.space == Space::Global && warp.block.launch.blocks() > 1) {
    for (uint32_t left = accesses.good & accesses.raced; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      note_global(warp, lane, accesses.address[lane], bytes, intent);
    }
  }
}

void note_lane(Warp& warp, int lane, Space space, uint64_t address, int bytes, Intent intent) {
  if (space == Space::Shared) {
    if (intent != Intent::Read) ++warp.block.shadow.number;
    note_shared(warp, lane, uint32_t(address), bytes, intent);
  } else if (space == Space::Global && warp.block.launch.blocks() > 1) {
    note_global(warp, lane, address, bytes, intent);
  }
}

}  // namespace ptx
