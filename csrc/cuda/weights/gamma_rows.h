// Raw gammas of some rows, drawn by a warp.
//
// Lanes take pairs of examples, two gammas for a Philox block: the first attempt of all of them in straight line.
// What is rejected goes to a queue in shared memory, from which full warps draw again.
//
// Cost of a gamma in lane-instructions of sm_80 and sm_90. The straight line has 60 with the hardware's arithmetic: 18
// of Philox (a row shares two rounds, and keys lie in registers), 11 of sine and cosine, 5 of the radius, 3 of the
// uniform, 14 of the attempt and its value, 5 of names and memory, 4 of constants. It has 126 with the accurate one,
// and about 260 in log space, with 50 more where each example has a concentration of its own. Retries add 10 at 2 % of
// rejects and 1024 gammas to a warp, the beginning of a warp's rows 3.
#pragma once

#include "cuda/weights/log_gamma.h"
#include "cuda/weights/subset.h"

namespace multimix {

constexpr int kQueue = 96;

// The round keys of Philox from round 2 on. `held`: in registers, a lane computes each and tells the others, so that
// the compiler does not compute them anew for each block.
template <bool held>
struct RoundKeys {
  uint64_t seed;
  uint32_t k[held ? 16 : 1];

  MULTIMIX_DEVICE RoundKeys(uint64_t seed, int lane) : seed(seed) {
    if constexpr (held) {
      const uint32_t mine = key(lane);
#pragma unroll
      for (int i = 0; i < 16; ++i) k[i] = __shfl_sync(kAllLanes, mine, i);
    }
  }

  MULTIMIX_DEVICE uint32_t key(int i) const {
    const uint32_t round = 2 + i / 2;
    return i % 2 ? uint32_t(seed >> 32) + round * kPhiloxKey1 : uint32_t(seed) + round * kPhiloxKey0;
  }

  MULTIMIX_DEVICE uint32_t get(int i) const {
    if constexpr (held) {
      return k[i];
    } else {
      return key(i);
    }
  }

  // The words of a block.
  MULTIMIX_DEVICE Words<uint64_t> operator()(uint32_t block, const PhiloxRow& row) const {
    Words<uint64_t> c = philox_begin<WideWords>(block, row);
#pragma unroll
    for (int i = 0; i < 16; i += 2) c = philox_round<WideWords>(c, get(i), get(i + 1));
    return c;
  }
};

// What all blocks of a row share.
template <class T>
struct __align__(16) RowStart {
  PhiloxRow words;
  GammaShape<T> shape;
};

template <class T>
struct __align__(2 * sizeof(T)) Pair {
  T even, odd;
};

// Draws the gammas of some rows of a location, raw[2 pair + odd] with `pairs` pairs to a row. Of one warp.
template <Arithmetic arithmetic>
struct Sampler {
  using T = Real<arithmetic>;
  using Keys = RoundKeys<arithmetic != Arithmetic::kLogSpace>;
  static constexpr int kSteps = 16;  // pairs of a lane until the queue is looked at: two bits of a word for each

  const Draw& draw;
  uint64_t seed;
  uint32_t location;
  int lane, pairs, minus_pairs;
  uint32_t reciprocal;  // of pairs: ceil(2^32 / pairs)
  int start, stride;    // of the warp's pairs
  RowStart<T>* starts;
  uint32_t* queue;
  uint8_t* sets;  // null: all examples
  Raw<arithmetic>* raw;

  MULTIMIX_DEVICE int row_of(int flat) const { return int(__umulhi(uint32_t(flat), reciprocal)); }

  // Philox's beginning and the concentration of each row, a lane for each.
  MULTIMIX_DEVICE void begin(int rows, uint64_t name) const {
    if (lane < rows) {
      starts[lane].words = philox_row<WideWords>(location_word(location, kGamma, 0), name + lane, seed);
      if (!draw.alpha) {
        float u = 0;
        if (draw.low != draw.high)
          u = uniform(uint32_t(draw_words(seed, 0, location_word(location, kConcentration, 0), name + lane).w0));
        starts[lane].shape = gamma_shape(concentration<T>(draw, u));
      }
    }
    __syncwarp();
  }

  // By row, or by example; then log2_d is that of its concentration.
  MULTIMIX_DEVICE GammaShape<T> shape_of(int row, int i, float& log2_d) const {
    log2_d = 0;
    if constexpr (arithmetic == Arithmetic::kLogSpace)
      if (draw.alpha) {
        const GammaShape<T> shape = gamma_shape(split(draw.alpha[i < draw.b ? i : draw.b - 1]));
        log2_d = log2f(shape.d3.high * (1.0f / 3));
        return shape;
      }
    return starts[row].shape;
  }

  // The first attempt at a pair of examples: shifts the sign bits of both into `accepted`. Past the last row memory has
  // room, and names some other examples.
  MULTIMIX_DEVICE void attempt_pair(int flat, int rows, const Keys& keys, uint32_t& accepted,
                                    Pair<Raw<arithmetic>>* out) const {
    const int row = min(row_of(flat), rows - 1), pair = flat + row * minus_pairs;
    float log2_even, log2_odd;
    const GammaShape<T> even = shape_of(row, 2 * pair, log2_even), odd = shape_of(row, 2 * pair + 1, log2_odd);
    const Words<uint64_t> w = keys(uint32_t(pair), starts[row].words);
    const Turn<T> direction = turn<T>(uint32_t(w.w1));
    const T rho = radius<arithmetic>(uint32_t(w.w0));
    const Attempt<T> k = attempt_gamma<arithmetic>(rho * direction.cosine, uint32_t(w.w2), even);
    const Attempt<T> l = attempt_gamma<arithmetic>(rho * direction.sine, uint32_t(w.w3), odd);
    accepted = accepted << 1 | sign_bit(k.lack);
    accepted = accepted << 1 | sign_bit(l.lack);
    *out = {raw_gamma<arithmetic>(k, even.exponent, log2_even), raw_gamma<arithmetic>(l, odd.exponent, log2_odd)};
  }

  // One more attempt at one example. A candidate that is rejected stays until the next one: after the last attempt it
  // is taken.
  MULTIMIX_DEVICE bool attempt_again(int element, uint32_t number, uint64_t name) const {
    const int row = row_of(element / 2), pair = element / 2 - row * pairs;
    const bool odd = element & 1;
    float log2_d;
    const GammaShape<T> shape = shape_of(row, 2 * pair + odd, log2_d);
    const Words<uint64_t> w = draw_words(seed, pair, location_word(location, kGamma, number), name + row);
    const Turn<T> direction = turn<T>(uint32_t(w.w1));
    const T x = radius<arithmetic>(uint32_t(w.w0)) * (odd ? direction.sine : direction.cosine);
    const Attempt<T> k = attempt_gamma<arithmetic>(x, uint32_t(odd ? w.w3 : w.w2), shape);
    if (k.y > 0) raw[element] = raw_gamma<arithmetic>(k, shape.exponent, log2_d);
    if (sign_bit(k.lack)) return true;
    if (number < kMaxAttempts - 1) return false;
    if constexpr (arithmetic != Arithmetic::kLogSpace)
      if (!(raw[element] >= 0)) raw[element] = 0;  // never y > 0
    return true;
  }

  // Zeroes what is outside the sets, and leaves only the bits of what is in them; with `few`, all of these are to be
  // drawn. The last step has the lowest bits, the even example the higher one.
  MULTIMIX_DEVICE uint32_t apply_sets(uint32_t again, int end, int steps, int total, bool few) const {
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const int pair = end - step * stride;
      const uint32_t in = pair < total ? sets[pair / 2] >> pair % 2 * 2 : 0;
      if (few || !(in & 1)) raw[2 * pair] = raw_zero<arithmetic>();
      if (few || !(in & 2)) raw[2 * pair + 1] = raw_zero<arithmetic>();
      again &= ~(3u << 2 * step) | (in << 1 & 2) << 2 * step | (in >> 1 & 1) << 2 * step;
    }
    return again;
  }

  // Gammas of `rows` rows, of which the first is called `name`; zero outside a row's set.
  MULTIMIX_DEVICE void draw_gammas(int rows, uint64_t name) const {
    const int total = rows * pairs;
    const bool few = sets && 2 * draw.m < draw.b;
    int pending = 0;
    for (int first = start; first < total; first += kSteps * stride) {
      const int steps = min(kSteps, (total - first + stride - 1) / stride);
      uint32_t accepted = 0;
      if (!few) {
        const Keys keys(seed, lane);
        int flat = first + lane;
        Pair<Raw<arithmetic>>* out = reinterpret_cast<Pair<Raw<arithmetic>>*>(raw) + flat;
#pragma unroll 1
        for (int step = 0; step < steps; ++step, flat += stride, out += stride)
          attempt_pair(flat, rows, keys, accepted, out);
      }
      const int end = first + (steps - 1) * stride + lane;  // the lane's last pair
      uint32_t again = ~accepted & (steps == kSteps ? ~0u : (1u << 2 * steps) - 1);
      if (sets) again = apply_sets(again, end, steps, total, few);
      if (end >= total) again &= ~3u;
      __syncwarp();
      const bool last = first + kSteps * stride >= total;
      int left;
      do {
        left = fill(again, end, few ? 0 : 1, pending);
        while (pending >= kWarp || (pending > 0 && last && left == 0)) drain(name, pending);
      } while (left > 0);
    }
  }

  // Moves rejects of all lanes to the queue while it has room; how many are left. `end`: the lane's last pair.
  MULTIMIX_DEVICE int fill(uint32_t& again, int end, uint32_t attempt, int& pending) const {
    const int mine = __popc(again), upto = prefix_sum(mine, lane);
    const int found = __shfl_sync(kAllLanes, upto, kWarp - 1);
#pragma unroll 1
    for (int at = pending + upto - mine; again != 0 && at < kQueue; ++at) {
      const int bit = 31 - __clz(again);
      again ^= 1u << bit;
      const int pair = end - bit / 2 * stride;
      queue[at] = uint32_t(2 * pair + (~bit & 1)) | attempt << 28;
    }
    __syncwarp();
    const int moved = min(found, kQueue - pending);
    pending += moved;
    return found - moved;
  }

  MULTIMIX_DEVICE void drain(uint64_t name, int& pending) const {
    const int count = pending < kWarp ? pending : kWarp;
    pending -= count;
    const uint32_t entry = lane < count ? queue[pending + lane] : 0;
    const bool again = lane < count && !attempt_again(int(entry & 0xFFFFFFFu), entry >> 28, name);
    __syncwarp();
    const uint32_t all = __ballot_sync(kAllLanes, again);
    if (again) queue[pending + __popc(all & ((1u << lane) - 1))] = entry + (1u << 28);
    pending += __popc(all);
    __syncwarp();
  }
};

}  // namespace multimix
