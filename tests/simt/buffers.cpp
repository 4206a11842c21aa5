// The buffers that kernels may touch, the spans of cells that cover them, and the names of places in memory.
#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "block.h"
#include "shadow.h"
#include "simt_memory.h"

namespace simt {
namespace {

struct Buffer {
  uintptr_t begin;
  size_t bytes;
  bool writable;
  std::string name;
};

struct Recent {
  uintptr_t number = ~uintptr_t(0);
  Span* span = nullptr;
};
constexpr size_t kRecent = 64;

struct Buffers {
  std::vector<Buffer> all;
  std::unordered_map<uintptr_t, Span*> spans;
  Recent recent[kRecent];
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::recursive_mutex mutex;
};
Buffers& buffers() {
  static Buffers* const all = new Buffers;  // outlives every static object
  return *all;
}
Buffers& held = buffers();

void* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

Span* make_span(uintptr_t number) {
  Span*& span = held.spans[number];
  if (span == nullptr) span = static_cast<Span*>(map(sizeof(Span)));
  held.recent[number % kRecent] = {number, span};
  return span;
}

void drop_span(uintptr_t number) {
  munmap(held.spans[number], sizeof(Span));
  held.spans.erase(number);
  held.recent[number % kRecent] = {};
}

uint8_t permission(bool writable) { return writable ? kReadable | kWritable : kReadable; }

void drop(size_t index) {
  const Buffer gone = held.all[index];
  held.all.erase(held.all.begin() + long(index));
  set_state(gone.begin, gone.bytes, 0, 0xff);
  for (const Buffer& left : held.all) {
    const uintptr_t begin = std::max(left.begin, gone.begin);
    const uintptr_t end = std::min(left.begin + left.bytes, gone.begin + gone.bytes);
    if (begin < end) set_state(begin, end - begin, permission(left.writable), 0);
  }
  for (uintptr_t n = gone.begin >> kSpanBits; n <= (gone.begin + gone.bytes - 1) >> kSpanBits; ++n)
    if (--held.spans[n]->buffers == 0) drop_span(n);
}

// Shared memory has a span of its own; around it nothing may be touched.
constexpr size_t kSharedOffset = (384 << 10) + 128;

std::string hexadecimal(uintptr_t x) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%zx", size_t(x));
  return text;
}

struct Segment {
  uintptr_t begin, end;
};
std::vector<Segment>& segments() {
  static std::vector<Segment> all;
  return all;
}

// What is read-only, at once or once the loader has finished.
int add_segments(dl_phdr_info* info, size_t, void*) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_GNU_RELRO && (header.p_type != PT_LOAD || (header.p_flags & PF_W))) continue;
    const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    segments().push_back({begin, begin + header.p_memsz});
  }
  return 0;
}

bool in_segments(uintptr_t address, size_t bytes) {
  static Segment last{0, 0};
  const auto inside = [&](const Segment& s) { return address >= s.begin && address + bytes <= s.end; };
  if (inside(last)) return true;
  for (const Segment& s : segments())
    if (inside(s)) return last = s, true;
  return false;
}

}  // namespace

Span* find_span(uintptr_t address) {
  const uintptr_t number = address >> kSpanBits;
  Recent& recent = held.recent[number % kRecent];
  if (recent.number == number) return recent.span;
  const auto found = held.spans.find(number);
  if (found == held.spans.end()) return nullptr;
  recent = {number, found->second};
  return found->second;
}

void allow(const void* begin, size_t bytes, bool writable, const char* name) {
  if (bytes == 0) return;
  const std::lock_guard<std::recursive_mutex> lock(held.mutex);
  const uintptr_t address = uintptr_t(begin);
  for (uintptr_t n = address >> kSpanBits; n <= (address + bytes - 1) >> kSpanBits; ++n) ++make_span(n)->buffers;
  held.all.push_back({address, bytes, writable, name});
  set_state(address, bytes, permission(writable), 0);
}

void forget(const void* begin) {
  const std::lock_guard<std::recursive_mutex> lock(held.mutex);
  for (size_t i = held.all.size(); i-- > 0;)
    if (held.all[i].begin == uintptr_t(begin)) drop(i);
}

void forget_all() {
  const std::lock_guard<std::recursive_mutex> lock(held.mutex);
  while (!held.all.empty()) drop(held.all.size() - 1);
}

void poison(const void* begin, size_t bytes) {
  const std::lock_guard<std::recursive_mutex> lock(held.mutex);
  for (size_t i = 0; i < bytes; i += kSpanBytes)
    if (find_span(uintptr_t(begin) + i) == nullptr) throw std::runtime_error("simt::poison: call simt::allow first");
  if (bytes > 0) set_state(uintptr_t(begin), bytes, kUnwritten, 0);
}

unsigned char* shared_begin() {
  if (held.shared == nullptr) {
    const uintptr_t memory = uintptr_t(map(2 * kSpanBytes));
    const uintptr_t span = (memory + kSpanBytes - 1) & ~(kSpanBytes - 1);
    make_span(span >> kSpanBits)->shared = true;
    held.shared = reinterpret_cast<unsigned char*>(span + kSharedOffset);
  }
  return held.shared;
}

void open_shared(size_t bytes) {
  held.shared_bytes = bytes;
  uint8_t* state = find_span(uintptr_t(shared_begin()))->state + kSharedOffset;
  __builtin_memset(state, kReadable | kWritable | kUnwritten, bytes);
}

void close_shared() {
  if (held.shared == nullptr) return;
  __builtin_memset(find_span(uintptr_t(held.shared))->state + kSharedOffset, 0, held.shared_bytes);
  held.shared_bytes = 0;
}

bool in_shared(uintptr_t address, size_t bytes) {
  const uintptr_t begin = uintptr_t(held.shared);
  return address >= begin && address + bytes <= begin + held.shared_bytes;
}

bool is_constant(uintptr_t address, size_t bytes) {
  if (in_segments(address, bytes)) return true;
  segments().clear();  // libraries may have come or gone
  dl_iterate_phdr(add_segments, nullptr);
  return in_segments(address, bytes);
}

std::string place(uintptr_t address, size_t) {
  const intptr_t from_shared = intptr_t(address) - intptr_t(held.shared);
  if (held.shared != nullptr && address >> kSpanBits == uintptr_t(held.shared) >> kSpanBits)
    return "shared " + std::string(from_shared < 0 ? "- " : "+ ") + std::to_string(std::abs(from_shared)) + " (" +
           std::to_string(held.shared_bytes) + " bytes)";
  const Buffer* best = nullptr;
  size_t distance = 4096;  // beyond that, another buffer's neighbourhood says nothing
  for (const Buffer& buffer : held.all) {
    const uintptr_t end = buffer.begin + buffer.bytes;
    const size_t away = address < buffer.begin ? buffer.begin - address : address < end ? 0 : address - end + 1;
    if (away < distance) best = &buffer, distance = away;
  }
  if (best == nullptr) return hexadecimal(address) + (address < 4096 ? " (near null)" : " (in no buffer)");
  const intptr_t offset = intptr_t(address) - intptr_t(best->begin);
  return "'" + best->name + "' " + (offset < 0 ? "- " : "+ ") + std::to_string(std::abs(offset)) + " (" +
         std::to_string(best->bytes) + " bytes)";
}

std::string code(const void* at) {
  Dl_info info;
  if (dladdr(at, &info) == 0) return "";
  const uintptr_t offset = uintptr_t(at) - uintptr_t(info.dli_fbase) - 1;
  std::string text;
  const std::string command =
      std::string("addr2line -e '") + info.dli_fname + "' -s -i " + hexadecimal(offset) + " 2>/dev/null";
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char line[512];
    while (std::fgets(line, sizeof line, pipe) != nullptr)
      if (line[0] != '?')
        text += (text.empty() ? ", at " : " in ") + std::string(line, std::string(line).find_first_of(" \n"));
    pclose(pipe);
  }
  return text.empty() ? ", at " + std::string(info.dli_fname) + " + " + hexadecimal(offset) : text;
}

}  // namespace simt
