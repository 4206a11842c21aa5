"""Whether torch's dispatcher would do anything for a call but hand it on: it costs an operator written in Python dear.

A third of the host's work for a loss goes into turning its arguments into those of a schema and back. Where tensors are
nothing but memory on a device, no mode, transform, autocast or profiler looks on, and nothing is recorded for autograd,
the function behind the operator can be called at once.
"""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

# Private functions of torch; where one is missing nothing is ever idle.
_ASKED = ("DispatchKey", "DispatchKeySet", "_dispatch_keys", "_dispatch_key_for_device", "_dispatch_key_parse",
          "_dispatch_tls_local_include_set")  # fmt: skip
_KNOWN = all(hasattr(torch._C, name) for name in _ASKED) and hasattr(torch.autograd, "_profiler_enabled")
_DEVICES = ("cpu", "cuda")  # on others, "meta" among them, there may be more to do
# A thread's own keys where nobody has added any: modes, transforms and inference mode change them.
_IDLE = (
    torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect).add(torch._C.DispatchKey.ADInplaceOrView).raw_repr()
    if _KNOWN
    else None
)


@cache
def _plain_keys(device_type: str) -> int:
    """The keys of a tensor on such a device that is no subclass, view of a conjugate, or inference tensor."""
    name = torch._C._dispatch_key_for_device(device_type)
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
    for layer in ("", "Autograd", "Autocast"):
        keys = keys.add(torch._C._dispatch_key_parse(layer + name))
    return keys.raw_repr()


def idle(tensors: Iterable[Tensor | None]) -> bool:
    """Whether an operator of these tensors may be called past the dispatcher. Not for compiled graphs to ask."""
    if not _KNOWN or torch._C._dispatch_tls_local_include_set().raw_repr() != _IDLE:
        return False
    if torch.autograd._profiler_enabled():
        return False
    keys, recording = None, torch.is_grad_enabled()
    for x in tensors:
        if x is None:
            continue
        if keys is None:
            device_type = x.device.type
            if device_type not in _DEVICES or torch.is_autocast_enabled(device_type):
                return False
            keys = _plain_keys(device_type)
        if torch._C._dispatch_keys(x).raw_repr() != keys or (recording and x.requires_grad):
            return False
    return True
