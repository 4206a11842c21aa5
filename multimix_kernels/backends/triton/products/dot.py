"""Matrix products of the operand types: "bf16", "fp16", "fp32" (IEEE), and "tf32"."""

import triton
import triton.language as tl

from ..host.constants import INTERPRET


@triton.jit
def nearest(x, TYPE: tl.constexpr):
    """x in another floating-point type, rounded to nearest even."""
    if INTERPRET and tl.bfloat16 == TYPE:  # the interpreter cuts bits off
        x = x.to(tl.float32)
        bits = x.to(tl.int32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, up.to(tl.float32, bitcast=True), x)
    return x.to(TYPE)


@triton.jit
def round_operand(x, OPERAND: tl.constexpr):
    """As a matrix product will read it: "tf32" rounds to nearest here, as the hardware would cut bits off."""
    if OPERAND == "bf16":
        result = nearest(x, tl.bfloat16)
    elif OPERAND == "fp16":
        result = x.to(tl.float16)
    elif OPERAND == "tf32":
        result = x.to(tl.float32)
        rounded = ((result.to(tl.int32, bitcast=True) + 0x1000) & -8192).to(tl.float32, bitcast=True)
        result = tl.where(result == result, rounded, result)  # the NaN of a GPU, 0x7FFFFFFF, would become zero
    else:
        result = x.to(tl.float32)
    return result


@triton.jit
def dot(x, y, accumulator, OPERAND: tl.constexpr):
    """accumulator + x @ y, in float32."""
    if INTERPRET:  # the interpreter multiplies the bits of bfloat16
        result = tl.dot(x.to(tl.float32), y.to(tl.float32), accumulator, input_precision="ieee")
    elif OPERAND == "tf32":
        result = tl.dot(x, y, accumulator, input_precision="tf32")
    else:
        result = tl.dot(x, y, accumulator, input_precision="ieee")
    return result
