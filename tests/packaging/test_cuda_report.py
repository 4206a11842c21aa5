"""The report on compiled CUDA kernels reads what NVIDIA's programs print, and complains where it should."""

import re
from pathlib import Path

import pytest

from benchmarks.compiled import cuda_report, kernels, tools
from benchmarks.compiled.kernels import Kernel

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
PRODUCT, SAMPLE = "_ZN8multimix10mix_kernelILNS_7OperandE0EEEvNS_6MixJobE", "_ZN8multimix13sample_kernelEv"
USAGE = f"""
Resource usage:
 Common:
  GLOBAL:0
 Function {PRODUCT}:
  REG:128 STACK:16 SHARED:1152 LOCAL:0 CONSTANT[0]:372 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function {SAMPLE}:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:356 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
LISTING = f"""
\t.section\t.text.{PRODUCT},"ax",@progbits
.text.{PRODUCT}:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 STL.64 [R1], R2 ;
        /*0020*/                   HMMA.16816.F32.BF16 R16, R4.reuse, R12, RZ ;
        /*0030*/             @!UP0 HMMA.16816.F32.BF16 R12, R4, R14, RZ ;
        /*0040*/              @P1  LDL R2, [R1] ;
        /*0050*/                   NOP ;
\t.section\t.text.{SAMPLE},"ax",@progbits
.text.{SAMPLE}:
        /*0000*/                   MUFU.LG2 R1, R2 ;
"""


def kernel(symbol=PRODUCT, **changes):
    values = dict(architecture="sm_90a", symbol=symbol, registers=64, stack=0, shared=0, instructions=9)
    return Kernel(**values | {"counts": {"HMMA": 2, "FFMA": 7}} | changes)


def test_reads_registers_and_memory():
    found = kernels.usage(USAGE)
    assert list(found) == [PRODUCT, SAMPLE]
    assert (found[PRODUCT]["REG"], found[PRODUCT]["STACK"], found[PRODUCT]["SHARED"]) == (128, 16, 1152)


def test_reads_instructions():
    found = kernels.instructions(LISTING)
    assert found == {PRODUCT: {"LDC": 1, "STL": 1, "HMMA": 2, "LDL": 1}, SAMPLE: {"MUFU": 1}}
    assert kernel(counts=found[PRODUCT]).local == 2
    assert kernel(counts=found[PRODUCT]).matrix == {"HMMA": 2}


def test_names():
    assert kernel().name == "mix_kernel"
    assert kernel(SAMPLE).name == "sample_kernel"
    assert kernel("fill").name == "fill"
    # A file's hash, whose digits run into the length of the name, and which has lengths of its own.
    unnamed = "_ZN8multimix43_GLOBAL__N__747d58f0_10_prepare_cu_aa91d87717label_mass_kernelEPKliilPf"
    assert kernel(unnamed).name == "label_mass_kernel"


@pytest.mark.parametrize(("changes", "complaint"), [
    ({}, None),
    ({"stack": 16}, "16 bytes of stack, 0 instructions with local memory"),
    ({"counts": {"HMMA": 1, "LDL": 3}}, "0 bytes of stack, 3 instructions with local memory"),
    ({"counts": {"FFMA": 9}}, "no instruction of the tensor cores"),
    ({"counts": {"HGMMA": 9}}, None),
    ({"symbol": SAMPLE, "counts": {"FFMA": 9}}, None),
    ({"symbol": "_ZN8multimix15row_loss_kernelILNS_7OperandE0ELb1EEEvi", "counts": {"FFMA": 9}}, None),
    ({"symbol": "_ZN8multimix15row_loss_kernelILNS_7OperandE0ELb0EEEvi", "counts": {"FFMA": 9}},
     "no instruction of the tensor cores"),
    ({"symbol": "_ZN8multimix15gradient_kernelILNS_7OperandE0EEEvi", "stack": 8, "counts": {"HMMA": 1}}, None),
    ({"symbol": "_ZN8multimix15gradient_kernelILNS_7OperandE0EEEvi", "stack": 16},
     "16 bytes of stack, 0 instructions with local memory"),
], ids=str)  # fmt: skip
def test_complaints(changes, complaint):
    assert cuda_report.complaints(kernel(**changes)) == ([complaint] if complaint else [])


@pytest.mark.parametrize(
    ("found", "code"), [([kernel()], 0), ([kernel(stack=8)], 1), ([], 1)], ids=["good", "bad", "none"]
)
def test_command(monkeypatch, tmp_path, capsys, found, code):
    monkeypatch.setattr(kernels, "read", lambda library: found)
    (tmp_path / "library.so").touch()
    assert cuda_report.main([str(tmp_path / "library.so")]) == code
    assert f"{len(found)} kernels, {code} complaints" in capsys.readouterr().out


def test_no_cuobjdump(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tools, "_folders", list)
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    (tmp_path / "library.so").touch()
    assert cuda_report.main([str(tmp_path / "library.so")]) == 1
    assert "pip install nvidia-cuda-cuobjdump" in capsys.readouterr().err


def test_no_library(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cuda_report.main([str(tmp_path / "nothing.so")])
    assert "MULTIMIX_BUILD=cuda builds it" in capsys.readouterr().err


@pytest.mark.skipif(not SOURCES.exists(), reason="this is not a source tree")
def test_kernels_without_products_exist():
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*") if path.is_file())
    assert set(re.findall(r"\b\w+_kernel\b", text)) >= cuda_report.NO_PRODUCTS
