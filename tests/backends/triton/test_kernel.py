"""Launches that go past `triton.JITFunction.run`: the same as its own, on a driver that only notes them."""

import gc
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from multimix_kernels.backends.triton import INTERPRET

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)
if INTERPRET:
    pytest.skip("Triton interprets kernels and compiles none", allow_module_level=True)

import triton
import triton.language as tl
from triton import knobs
from triton.compiler import CompiledKernel

from multimix_kernels.backends.triton.host import device
from multimix_kernels.backends.triton.host.kernel import Kernel, kernel, known
from multimix_kernels.backends.triton.weights.sample import sample_kernel

from ...ptx.triton_driver import Driver, virtual_gpu

DEVICE = 90
FUSION = dict(enable_fp_fusion=True)


class Inner(NamedTuple):
    size: int
    pointer: torch.Tensor | None


class Pair(NamedTuple):
    pointer: torch.Tensor | None
    size: int
    inner: Inner | None


def store(first, second, pair, count, size, scale, NAME: tl.constexpr, WIDTH: tl.constexpr):
    """Something that any arguments can be given to."""
    tl.store(first, WIDTH)


class Noted:
    """Kernels by number, in the order in which they are loaded, and launches with all that the host says of them."""

    compiles = False

    def __init__(self):
        self.loaded, self.launches = 0, []

    def load(self, name, ptx):
        self.loaded += 1
        return self.loaded

    def launch(self, kernel, grid, threads, shared, arguments):
        values = [(kind, x.data_ptr() if hasattr(x, "data_ptr") else x) for kind, x in arguments]
        self.launches.append((kernel, grid, threads, values))


@pytest.fixture(autouse=True, scope="module")
def no_unloading():
    """A driver that is gone by then would be asked to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledKernel, "__del__", lambda _: None, raising=False)
        yield
        gc.collect()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Nothing that was compiled before is found."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.fixture
def noted():
    with virtual_gpu(DEVICE, Noted()) as found:
        yield found


@pytest.fixture
def plain_runs(monkeypatch):
    """Calls of Triton's own."""
    runs, own = [], triton.JITFunction.run

    def run(self, *arguments, **keywords):
        runs.append(self)
        return own(self, *arguments, **keywords)

    monkeypatch.setattr(triton.JITFunction, "run", run)
    return runs


MEMORY = torch.zeros(64)
TENSORS = MEMORY, MEMORY[1:], MEMORY[4:], MEMORY.bfloat16(), torch.nn.Parameter(MEMORY)
INTEGERS = 0, 1, 2, 16, 17, -5, -16, 2**31 - 1, 2**31, 2**40 + 1, 2**63


def calls(count: int):
    """Grids, arguments by position, and keywords; more often than not two differ in one thing."""
    random = Random(0)

    def inner():
        return random.choice([None, Inner(random.choice(INTEGERS), random.choice([None, *TENSORS]))])

    choices = (
        lambda: random.choice(TENSORS), lambda: random.choice([None, *TENSORS]),
        lambda: Pair(random.choice([None, *TENSORS]), random.choice(INTEGERS), inner()),
        lambda: random.choice(INTEGERS), lambda: random.choice([*INTEGERS, 0.5]),
        lambda: random.choice([1.0, 0.5, 1, True, None]), lambda: random.choice(["a", "b", None]),
    )  # fmt: skip
    arguments = [choose() for choose in choices]
    for _ in range(count):
        changed = random.randrange(len(choices))
        arguments[changed] = choices[changed]()
        grid = tuple(random.choices((1, 5), k=random.choice((1, 2, 3))))
        yield grid, tuple(arguments), dict(WIDTH=random.choice((16, 32)), num_warps=random.choice((4, 8)), **FUSION)


def launch_all(function, count=120):
    """What a driver sees of all calls, twice."""
    with virtual_gpu(DEVICE, Noted()) as found:
        for grid, arguments, keywords in 2 * list(calls(count)):
            function[grid](*arguments, **keywords)
    return found


def test_the_same_launches(plain_runs):
    """Of the same kernels with the same arguments; the second time none is Triton's own."""
    expected = launch_all(triton.jit(store, do_not_specialize=["count"]))
    plain_runs.clear()
    found = launch_all(kernel(do_not_specialize=["count"])(store))
    assert found.launches == expected.launches
    assert found.loaded == expected.loaded > 20
    assert found.loaded <= len(plain_runs) <= 120


def test_library_kernels_are_such(monkeypatch):
    assert isinstance(sample_kernel, Kernel)
    assert [known(version) for version in ("3.5.1", "3.6.0+git1a2b", "3.9.0", "3.10.0", "4.0.0")] == [0, 1, 1, 0, 0]
    monkeypatch.setattr(triton, "__version__", "3.10.0")
    assert type(kernel()(store)) is triton.JITFunction


@pytest.fixture
def launch(noted):
    """A call of always the same kernel, which has been launched before."""
    own = kernel(do_not_specialize=["count"])(store)

    def launch(**changed):
        return own[2, 3](MEMORY, *(None,) * 2, 3, 4, 5.0, **(dict(NAME="a", WIDTH=16) | FUSION | changed))

    launch.kernel = own
    launch()
    return launch


def test_hooks_see_launches(launch, noted, plain_runs):
    """Those of profilers, around launches, and those that a kernel is given before them."""
    seen = []
    launch()
    assert not plain_runs
    for chain in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
        chain.add(seen.append)
        launch()
        chain.remove(seen.append)
    assert len(plain_runs) == 2
    launch.kernel.add_pre_run_hook(lambda *_, **__: seen.append("before"))
    launch()
    assert seen == ["before"]  # the driver that notes launches calls no others
    assert len(noted.launches) == 5


@pytest.mark.parametrize(("where", "what", "value"), [
    ("runtime", "debug", True), ("compilation", "instrumentation_mode", "consan"),
    ("runtime", "add_stages_inspection_hook", lambda *_: ("key", "hash")),
])  # fmt: skip
def test_what_is_compiled_otherwise(launch, noted, plain_runs, monkeypatch, where, what, value):
    """Is Triton's, and forgotten when it is over."""
    with monkeypatch.context() as patch:
        patch.setattr(getattr(knobs, where), what, value, raising=False)
        launch()
        assert len(plain_runs) == 1
    launch()
    assert len(plain_runs) == 1
    assert [x for x, *_ in noted.launches] == [1, noted.loaded, 1]


class Pointer:
    """What Triton takes for a tensor."""

    dtype = torch.float32

    def data_ptr(self):
        return MEMORY.data_ptr()


def test_unusual_arguments_are_left_to_triton(noted, plain_runs):
    own = kernel()(store)
    for _ in range(2):
        own[(1,)](Pointer(), None, None, 3, 4, 5.0, "a", 16, **FUSION)
        own[(1,)](MEMORY, None, None, 3, size=4, scale=5.0, NAME="a", WIDTH=16, **FUSION)
        own[lambda found: (found["WIDTH"],)](MEMORY, None, None, 3, 4, 5.0, "a", 16, **FUSION)
    assert len(plain_runs) == 6
    assert [grid for _, grid, *_ in noted.launches] == [(1, 1, 1), (1, 1, 1), (16, 1, 1)] * 2
    with pytest.raises(TypeError, match="WIDTH"):
        own[(1,)](MEMORY, None, None, 3, 4, 5.0, "a", **FUSION)
    assert own.warmup(MEMORY, None, None, 3, 4, 5.0, "a", 32, grid=(1,), **FUSION).name == "store"
    assert len(noted.launches) == 6


@pytest.fixture
def current(monkeypatch):
    """Device and stream of each thread, and what was launched on which streams."""
    now, seen, own = threading.local(), [], Driver.launcher_cls

    def launcher(self, source, metadata):
        inner = own(self, source, metadata)

        def launch(x, y, z, stream, function, *rest):
            seen.append((stream, function, x))
            inner(x, y, z, stream, function, *rest)

        return launch

    monkeypatch.setattr(Driver, "launcher_cls", launcher)
    monkeypatch.setattr(Driver, "get_current_device", lambda _: getattr(now, "device", DEVICE))
    monkeypatch.setattr(Driver, "get_current_stream", lambda _, device: (device, getattr(now, "stream", 0)))
    now.seen = seen
    return now


def test_device_and_stream_are_the_current_ones(current, noted):
    own = kernel()(store)
    for current.device, current.stream in [(0, 1), (0, 2), (1, 1), (0, 2), (1, 3)]:
        own[(1,)](MEMORY, None, None, 3, 4, 5.0, "a", 16, **FUSION)
    assert [stream for stream, *_ in current.seen] == [(0, 1), (0, 2), (1, 1), (0, 2), (1, 3)]
    assert [function for _, function, _ in current.seen] == [1, 1, 2, 1, 2]


def test_threads_share_no_launch(current, noted):
    own, seen = kernel()(store), current.seen

    def work(number):
        current.device, current.stream = number % 2, number
        for _ in range(50):
            own[(number + 1,)](MEMORY, None, None, 3, 4, 5.0, "a", 16, **FUSION)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(seen) == 400
    assert all(stream == ((x - 1) % 2, x - 1) for stream, _, x in seen)


def test_device_is_switched_only_from_another_one(monkeypatch):
    x = SimpleNamespace(is_cuda=True, get_device=lambda: 1, device=torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert not isinstance(device.on_device(x), torch.cuda.device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device.on_device(x).idx == 1


def test_a_device_is_asked_once(monkeypatch):
    asked = []

    def properties(index):
        asked.append(index)
        return SimpleNamespace(multi_processor_count=100 + index)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    device._multiprocessors.cache_clear()
    x, y = (SimpleNamespace(is_cuda=True, get_device=lambda index=index: index) for index in (3, 4))
    assert [device.programs(z) for z in (x, y, x, y)] == [103, 104, 103, 104]
    assert asked == [3, 4]
    device._multiprocessors.cache_clear()
