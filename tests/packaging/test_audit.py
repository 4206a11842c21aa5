"""The audit of wheels notices what is wrong with one."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from benchmarks.compiled import kernels, tools
from benchmarks.packaging import __main__, audit, elf, shims

NEEDS = elf.Needs(["torch_new"], [])
SHOWN = {
    "pure": False, "sym_tag": "manylinux_2_34_x86_64", "external_libs": {"libtorch.so": None, "libtorch_cpu.so": None},
    "versioned_symbols": {"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.28", "GLIBC_2.4"], "libgcc_s.so.1": ["GCC_3.0"]},
}  # fmt: skip
STABLE = {"torch_new": (2, 10), "torch_newer": (2, 12)}
HEADER = """
AOTI_TORCH_EXPORT AOTITorchError aoti_torch_old(int x);
#if TORCH_FEATURE_VERSION >= TORCH_VERSION_2_10_0
AOTI_TORCH_EXPORT AOTITorchError
torch_new(int x);
#ifdef USE_CUDA
AOTI_TORCH_EXPORT AOTITorchError torch_new_cuda(int x);
#endif
#endif
#if TORCH_FEATURE_VERSION >= TORCH_VERSION_2_12_0
#ifdef USE_CUDA
AOTI_TORCH_EXPORT AOTITorchError torch_newer_cuda(int x);
#endif
AOTI_TORCH_EXPORT AOTITorchError torch_newer(int x);
#endif
AOTI_TORCH_EXPORT AOTITorchError torch_last(int x);
"""


def test_headers_date_their_functions():
    old, new = (2, 10), (2, 12)
    assert shims.parse(HEADER) == {
        "aoti_torch_old": old, "torch_new": old, "torch_new_cuda": old, "torch_newer_cuda": new, "torch_newer": new,
        "torch_last": old,
    }  # fmt: skip


def test_headers_of_this_torch():
    table = shims.table()
    for name in ("aoti_torch_get_current_cuda_stream", "aoti_torch_get_data_ptr", "torch_parallel_for"):
        assert table[name] == (2, 10)


def complaints(needs):
    findings = audit.Findings()
    audit.check_needs("library", needs, STABLE, findings)
    return findings.wrong


@pytest.mark.parametrize(("change", "complaint"), [
    ({}, None),
    ({"symbols": ["torch_new", "_ZN2at5emptyEv"]}, "library uses symbols outside the stable ABI: _ZN2at5emptyEv"),
    ({"symbols": ["torch_newer", "torch_new"]}, "library needs torch 2.12: torch_newer"),
    ({"search_paths": ["/home/me/torch/lib"]}, "library searches /home/me/torch/lib"),
], ids=str)  # fmt: skip
def test_needs(change, complaint):
    assert complaints(replace(NEEDS, **change)) == ([complaint] if complaint else [])


@pytest.mark.parametrize(("change", "complaint"), [
    ({}, None),
    ({"external_libs": {"libtorch_cpu.so": None, "libcudart.so.13": None}}, "it needs libcudart.so.13"),
    ({"external_libs": {"libtorch_cuda.so": None}}, "it needs libtorch_cuda.so"),
    ({"external_libs": {"libtorch_python.so": None}}, "it needs libtorch_python.so"),
    ({"sym_tag": "manylinux_2_28_x86_64"}, "its tag says manylinux_2_34_x86_64, its libraries manylinux_2_28_x86_64"),
], ids=str)  # fmt: skip
def test_system(change, complaint):
    findings = audit.Findings()
    audit.check_system(SHOWN | change, {"manylinux_2_34_x86_64"}, findings)
    assert findings.wrong == ([complaint] if complaint else [])
    assert "(GCC 3.0, GLIBC 2.28)" in findings.facts[0]


@pytest.mark.parametrize("platform", ["manylinux_2_38_x86_64", "linux_x86_64"])
def test_too_new_a_system(platform):
    findings = audit.Findings()
    audit.check_system(SHOWN | {"sym_tag": platform}, {platform}, findings)
    assert findings.wrong == [f"its libraries need {platform}, newer than manylinux_2_34"]


@pytest.mark.skipif(not (shutil.which("c++") and sys.platform == "linux"), reason="needs c++ and ELF")
def test_reads_a_library(tmp_path):
    source = 'extern "C" int torch_new(); namespace at { int f(); } int* p = new int(at::f() + torch_new());'
    command = ["c++", "-shared", "-fPIC", "-x", "c++", "-", "-o", "library.so", "-Wl,-rpath,/somewhere"]
    subprocess.run(command, input=source, text=True, cwd=tmp_path, check=True)
    needs = elf.read(tmp_path / "library.so")
    assert sorted(needs.symbols) == ["_ZN2at1fEv", "torch_new"]
    assert needs.search_paths == ["/somewhere"]


@pytest.mark.parametrize(("asked", "binary", "ptx", "complaint"), [
    (["8.0", "9.0a"], {"sm_80": 3, "sm_90a": 3}, {}, None),
    (["12.0+PTX"], {"sm_120": 2}, {"sm_120": 2}, None),
    (["8.0", "9.0a"], {"sm_80": 3}, {}, "has machine code for ['sm_80'], asked for was ['sm_80', 'sm_90a']"),
    (["9.0"], {"sm_90": 1, "sm_90a": 1}, {}, "machine code for ['sm_90', 'sm_90a'], asked for was ['sm_90']"),
    (["9.0a"], {"sm_90a": 1}, {"sm_90a": 1}, "has PTX for ['sm_90a'], asked for was nothing"),
    (["9.0+PTX"], {"sm_90": 1}, {}, "has PTX for nothing, asked for was ['sm_90']"),
    (["8.0", "9.0"], {"sm_80": 3, "sm_90": 2}, {}, "some files lack machine code"),
], ids=str)  # fmt: skip
def test_architectures(monkeypatch, tmp_path, asked, binary, ptx, complaint):
    monkeypatch.setattr(kernels, "architectures", lambda library: (binary, ptx))
    findings = audit.Findings()
    audit.check_architectures(tmp_path / "multimix_cuda.so", asked, findings)
    assert len(findings.wrong) == (complaint is not None)
    assert complaint is None or complaint in findings.wrong[0]


@pytest.mark.parametrize(("info", "expected"), [
    ({"cpu": {"reason": "no"}, "cuda": {"reason": "no"}}, ""),
    ({"cpu": {"compiler": "c++"}, "cuda": {"reason": "no"}}, "cpu"),
    ({"cpu": {"compiler": "c++"}, "cuda": {"nvcc": "13.0.88", "architectures": ["8.0", "9.0a", "12.0+PTX"]}},
     "cu130.sm80.sm90a.sm120ptx"),
], ids=str)  # fmt: skip
def test_local_version(info, expected):
    assert audit.local_version(info) == expected


def wheel(folder, name="multimix_kernels-0.1.0-py3-none-manylinux_2_34_x86_64.whl", files=(), info=None):
    info = {"cpu": {"reason": "no"}, "cuda": {"reason": "no"}} | (info or {})
    with zipfile.ZipFile(folder / name, "w") as file:
        file.writestr("multimix_kernels/backends/lib/build.json", json.dumps(info))
        for path in files:
            file.writestr(path, b"")
    return folder / name


def test_wheel_without_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "show", lambda path: SHOWN)
    path = wheel(tmp_path, files=["multimix_kernels/__init__.py", "multimix_kernels-0.1.0.dist-info/METADATA"])
    assert audit.audit(path).wrong == []


@pytest.mark.parametrize(("options", "complaint"), [
    ({"name": "multimix_kernels-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl"}, "its tag is cp311-cp311-"),
    ({"name": "multimix_kernels-0.1.0-py3-none-any.whl"}, "its tag is py3-none-any"),
    ({"name": "multimix_kernels-0.1.0+cpu-py3-none-manylinux_2_34_x86_64.whl"}, "its version is 0.1.0+cpu, and"),
    ({"name": "multimix_kernels-0.1.0-py3-none-linux_x86_64.whl"}, "its tag says linux_x86_64, its libraries"),
    ({"files": ["tests/__init__.py"]}, "it has tests/__init__.py"),
    ({"files": ["multimix_kernels/kernels.cu"]}, "it has multimix_kernels/kernels.cu"),
    ({"files": ["multimix_kernels/backends/lib/multimix_cuda.so"]}, "multimix_cuda.so: build.json says"),
    ({"info": {"cpu": {"torch": "2.13.0"}}}, "multimix_cpu.so: build.json says"),
], ids=str)  # fmt: skip
def test_wheel_with_a_fault(tmp_path, monkeypatch, options, complaint):
    monkeypatch.setattr(elf, "read", lambda library: NEEDS)
    monkeypatch.setattr(audit, "show", lambda path: SHOWN | {"pure": "none-any" in path.name})
    monkeypatch.setattr(audit.shims, "table", lambda: STABLE)
    monkeypatch.setattr(kernels, "architectures", lambda library: ({}, {}))
    (wrong,) = audit.audit(wheel(tmp_path, **options)).wrong
    assert wrong.startswith(complaint)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit, "show", lambda path: SHOWN)
    good, bad = wheel(tmp_path), wheel(tmp_path, "multimix_kernels-0.1.0-py3-none-any.whl")
    assert __main__.main([str(good)]) == 0
    assert __main__.main([str(good), str(bad)]) == 1
    assert "WRONG: its tag" in capsys.readouterr().out
    assert __main__.main([str(tmp_path / "nothing.whl")]) == 1


def test_missing_program_names_its_package(monkeypatch):
    monkeypatch.setattr(tools, "_folders", list)
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    with pytest.raises(tools.Missing, match="there is no cuobjdump; pip install nvidia-cuda-cuobjdump"):
        tools.find("cuobjdump")
