"""Fused MultiMix and Dense MultiMix for PyTorch."""

from .attention import attention_map
from .backends import available_backends
from .chunks import multimix_head_cross_entropy
from .functional import (
    dense_multimix_cross_entropy,
    mixed_cross_entropy,
    multimix,
    multimix_cross_entropy,
    sample_dirichlet,
)
from .mixture import Mixture
from .modules import MultiMixHead, MultiMixLoss
from .version import __version__
from .warming import warm_up

__all__ = [
    "Mixture",
    "MultiMixHead",
    "MultiMixLoss",
    "__version__",
    "attention_map",
    "available_backends",
    "dense_multimix_cross_entropy",
    "mixed_cross_entropy",
    "multimix",
    "multimix_cross_entropy",
    "multimix_head_cross_entropy",
    "sample_dirichlet",
    "warm_up",
]
