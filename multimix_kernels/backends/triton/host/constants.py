"""Numbers that kernels share. A kernel's globals have to be constexprs."""

import triton.language as tl

from .. import INTERPRET as interpreted

INTERPRET = tl.constexpr(interpreted)

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
TINY = tl.constexpr(1.1754943508222875e-38)
LEAST = tl.constexpr(-3e38)  # a maximum to begin with: -inf less -inf would be NaN

# A masked class, of score -inf or the least number there is, goes into products as a finite score: a weight of zero
# times it is zero, any other one gives a score below MASKED, as no weight but zero is smaller than LEAST_WEIGHT.
# float16 has no such numbers: there operands are scores times SCALE_16, a mask is the least of them, and the least
# weight takes at least 32 from a score. Small scores lose by the scale less than half of what float16 rounds at one.
FLOOR = tl.constexpr(-(2.0**126))  # twice it is still finite
SCALE_16 = tl.constexpr(2.0**-11)
FLOOR_16 = tl.constexpr(-65504.0 * 2.0**11)
MASKED = tl.constexpr(-(2.0**35))
MASKED_16 = tl.constexpr(-(2.0**18))  # no two float16 numbers differ by as much
LEAST_WEIGHT = tl.constexpr(2.0**-90)
LEAST_WEIGHT_16 = tl.constexpr(2.0**-22)
LEAST_LOGIT_16 = tl.constexpr(-32752.0)  # of any head's logits as float16 operands: twice it is still finite
LARGEST_MASK = tl.constexpr(-3.3e38)  # no score below it is one; in float16 none below its least
LARGEST_MASK_16 = tl.constexpr(-65504.0)
