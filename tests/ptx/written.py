"""Kernels written by hand, for the tests of the machine: their text, and their launch on NumPy arrays."""

import struct

import numpy as np

from . import machine

REGISTERS = ".reg .pred %p<16>; .reg .b32 %r<{many}>; .reg .f32 %f<{many}>; .reg .b64 %rd<64>; .reg .f64 %fd<16>;"


def kernel(body: str, pointers: int = 4, shared: int = 0, target: str = "sm_90a", many: int = 512) -> str:
    """A kernel `k` whose pointers are in %rd0, %rd1, ... and whose thread is %r0; shared memory begins at 0."""
    parameters = ", ".join(f".param .u64 p{i}" for i in range(pointers))
    loads = "\n".join(f"ld.param.u64 %rd{i}, [p{i}];" for i in range(pointers))
    return f"""
.version 8.5
.target {target}
.address_size 64
.visible .entry k({parameters})
{{
{REGISTERS.format(many=many)}
{f".shared .align 1024 .b8 memory[{shared}];" if shared else ""}
{loads}
{"mov.u32 %r0, memory;" if shared else ""}
mov.u32 %r0, %tid.x;
{body}
ret;
}}
"""


def run(text: str, *arrays: np.ndarray, threads: int = 32, blocks: int = 1, **options) -> machine.Report:
    """Launches kernel `k` with the arrays as its pointers."""
    addresses = [struct.pack("Q", array.ctypes.data) for array in arrays]
    ranges = [(array.ctypes.data, array.ctypes.data + array.nbytes, True) for array in arrays]
    return machine.Module(text).launch("k", [blocks], [threads], addresses, ranges=ranges, **options)


def load_registers(registers: list[str], pointer: int, scratch: int = 60) -> str:
    """Register k of a thread from element threads * k + thread of 32-bit elements: `fragments` below, by 32 threads."""
    return _each(registers, pointer, scratch, "ld.global.b32 {register}, [{address}];")


def store_registers(registers: list[str], pointer: int, scratch: int = 60) -> str:
    """The same, back."""
    return _each(registers, pointer, scratch, "st.global.b32 [{address}], {register};")


def _each(registers, pointer, scratch, form):
    lines = [
        f"mov.u32 %r{scratch}, %ntid.x;", f"shl.b32 %r{scratch}, %r{scratch}, 2;",
        f"mul.wide.u32 %rd{scratch}, %r0, 4;", f"add.s64 %rd{scratch}, %rd{pointer}, %rd{scratch};",
        f"cvt.u64.u32 %rd{scratch + 1}, %r{scratch};",
    ]  # fmt: skip
    for register in registers:
        lines.append(form.format(register=register, address=f"%rd{scratch}"))
        lines.append(f"add.s64 %rd{scratch}, %rd{scratch}, %rd{scratch + 1};")
    return "\n".join(lines)


def copy_to_shared(bytes_: int, pointer: int, threads: int) -> str:
    """Words of an array to the beginning of shared memory, by all threads."""
    assert bytes_ % (4 * threads) == 0
    lines = ["shl.b32 %r62, %r0, 2;", f"mul.wide.u32 %rd62, %r0, 4; add.s64 %rd62, %rd{pointer}, %rd62;"]
    for k in range(0, bytes_, 4 * threads):
        lines.append(f"ld.global.b32 %r63, [%rd62+{k}]; st.shared.b32 [%r62+{k}], %r63;")
    return "\n".join(lines)
