// Examples sorted by label, so that sums over the examples of a class have one owner and a fixed order.
#include "cuda/soft/soft.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;
constexpr int kNone = 0x7fffffff;  // behind every class

// Each example's place in the order: b^2 comparisons in all, about 5 lane-instructions each.
__global__ void label_rank_kernel(const int64_t* labels, int64_t ignore_index, int b, int c, int* order, int* sorted) {
  int* tile = reinterpret_cast<int*>(shared_memory());
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const auto label_of = [&](int example) {
    const int64_t label = example < b ? labels[example] : -1;
    return label >= 0 && label < c && label != ignore_index ? int(label) : kNone;
  };
  const int own = label_of(i);
  int rank = 0;
  for (int start = 0; start < b; start += kThreads) {
    __syncthreads();
    tile[threadIdx.x] = label_of(start + threadIdx.x);
    __syncthreads();
    for (int k = 0; k < min(kThreads, b - start); ++k) rank += tile[k] < own || (tile[k] == own && start + k < i);
  }
  if (i < b) order[rank] = i, sorted[rank] = own;
}

// The classes that occur. One warp, 32 examples at a time.
__global__ void label_classes_kernel(const int* sorted, int b, uint4* classes, int* counts) {
  const int lane = threadIdx.x;
  int count = 0, known = 0;
  for (int start = 0; start < b; start += kWarp) {
    const int e = start + lane;
    const int own = e < b ? sorted[e] : kNone;
    const bool head = own != kNone && (e == 0 || sorted[e - 1] != own);
    const unsigned heads = __ballot_sync(kAllLanes, head);
    known += __popc(__ballot_sync(kAllLanes, own != kNone));
    if (head) {
      const int at = count + __popc(heads & ((1u << lane) - 1));
      classes[at].x = own, classes[at].y = e, classes[at].w = 0;
      if (at > 0) classes[at - 1].z = e;
    }
    count += __popc(heads);
  }
  if (lane == 0) {
    if (count > 0) classes[count - 1].z = known;
    counts[0] = count, counts[1] = known;
  }
}

}  // namespace

LabelOrder order_labels(const Context& context, const Target& target, int b) {
  int* order = context.make<int>(b);
  int* sorted = context.make<int>(b);
  uint4* classes = context.make<uint4>(b);
  int* counts = context.make<int>(2);
  launch(context, "label_rank", label_rank_kernel, {ceil_div(b, kThreads)}, kThreads, kThreads * sizeof(int),
         target.labels, target.ignore_index, b, target.c, order, sorted);
  launch(context, "label_classes", label_classes_kernel, {1}, kWarp, 0, sorted, b, classes, counts);
  return {order, classes, counts};
}

}  // namespace multimix
