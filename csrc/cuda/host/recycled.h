// Memory that the steps of one call use again.
#pragma once

#include <vector>

#include "cuda/host/context.h"

namespace multimix {

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
