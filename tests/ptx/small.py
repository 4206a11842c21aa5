"""Small kernels of PTX written by hand, for the tests of the machine."""

import numpy as np
import torch

from .machine import Module, Report

HEADER = ".version 8.6\n.target sm_90a\n.address_size 64\n"
REGISTERS = ".reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %rd<32>; .reg .f64 %d<8>;"
WIDTH = {
    np.dtype(kind): 8 * np.dtype(kind).itemsize
    for kind in ("u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
}


def kernel(body: str, outside: str = "", properties: str = "") -> str:
    """A kernel `k` with two pointers %rd0 and %rd1 and a number %r1; its thread is %r0."""
    return f"""{HEADER}{outside}
.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n) {properties}
{{
{REGISTERS}
ld.param.u64 %rd0, [a]; ld.param.u64 %rd1, [b]; ld.param.u32 %r1, [n];
mov.u32 %r0, %tid.x;
{body}
ret;
}}
"""


def run(
    body: str, a: torch.Tensor, b: torch.Tensor, n: int = 0, *, outside: str = "", threads=32, grid=1, **options
) -> Report:
    """Launches `kernel(body)`."""
    return Module(kernel(body, outside)).launch("k", (grid,), (threads,), [a, b, n], **options)


def apply(instruction: str, result: str, *inputs: np.ndarray) -> np.ndarray:
    """An instruction's results, in which %0 is the destination and %1, %2, ... are elements of the inputs.

    Args:
        result: NumPy's name of the destination's type, or "?" for a predicate
    """
    count, loads, declared = len(inputs[0]), [], []
    for k, values in enumerate(inputs, 1):
        bits, size = WIDTH[values.dtype], values.dtype.itemsize
        declared.append(f".reg .b{max(bits, 16)} %in{k};")
        loads.append(
            f"ld.param.u64 %rd1, [p{k}]; mad.wide.u32 %rd2, %r0, {size}, %rd1; ld.global.b{bits} %in{k}, [%rd2];"
        )
    kind = np.dtype("u4" if result == "?" else result)
    bits = WIDTH[kind]
    text = instruction
    for k in range(len(inputs), 0, -1):
        text = text.replace(f"%{k}", f"%in{k}")
    text = text.replace("%0", "%truth" if result == "?" else "%out")
    body = f"""{HEADER}
.visible .entry k(.param .u64 p0{"".join(f", .param .u64 p{k}" for k in range(1, len(inputs) + 1))})
{{
{REGISTERS} .reg .pred %truth; .reg .b{max(bits, 16)} %out; {" ".join(declared)}
mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r0, %r0, %r1, %r2;
{chr(10).join(loads)}
{text};
{"selp.b32 %out, 1, 0, %truth;" if result == "?" else ""}
ld.param.u64 %rd1, [p0]; mad.wide.u32 %rd2, %r0, {kind.itemsize}, %rd1; st.global.b{bits} [%rd2], %out;
ret;
}}"""
    arrays = [np.zeros(count, kind), *map(np.ascontiguousarray, inputs)]
    threads = min(count, 128)
    assert count % threads == 0
    pointers = [array.ctypes.data for array in arrays]
    ranges = [(array.ctypes.data, array.ctypes.data + array.nbytes, True) for array in arrays]
    report = Module(body).launch("k", (count // threads,), (threads,), pointers, ranges=ranges)
    assert not report.faults, report.faults
    return arrays[0].astype(bool) if result == "?" else arrays[0]
