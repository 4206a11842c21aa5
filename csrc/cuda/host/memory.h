// Where the kernels of one operator call run, and memory that its steps use again. Plain C++, for the operators and for
// the launchers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace multimix {

struct Context {
  void* stream = nullptr;
  int device = 0;
  int processors = 1;                         // multiprocessors of the device
  size_t shared_limit = 48 << 10;             // bytes of shared memory that one block may ask for
  std::function<void*(size_t bytes)> memory;  // device memory until the call ends, aligned to 256 bytes, uninitialised

  template <class T>
  T* make(int64_t count) const {
    return static_cast<T*>(memory(size_t(count) * sizeof(T)));
  }
};

// After a restart the k-th request gets the memory that the k-th one got before, if that is large enough. Work on one
// stream is in order, so that nobody reads it any more.
class Recycled {
 public:
  explicit Recycled(const Context& from) : context(from) {
    context.memory = [this, memory = from.memory](size_t bytes) {
      if (next_ == pieces_.size()) pieces_.push_back({});
      Piece& piece = pieces_[next_++];
      if (piece.bytes < bytes) piece = {memory(bytes), bytes};
      return piece.data;
    };
  }
  Recycled(const Recycled&) = delete;

  void restart() { next_ = 0; }

  Context context;

 private:
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  };
  std::vector<Piece> pieces_;
  size_t next_ = 0;
};

}  // namespace multimix
