"""Convolutional networks that two cores train: a feature map, its mean over the locations, and a linear head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimix_kernels import MultiMixHead

WIDTH = 48
RESIDUAL = (24, 48, 48)  # channels of the residual network's stages
LARGE = 20  # pixels from which on images get the residual network


class Network(nn.Module):
    """Stages, the last of which gives the feature map (b, d, *spatial), and a linear head on its mean."""

    def __init__(self, stages: nn.Sequential, head: MultiMixHead) -> None:
        super().__init__()
        self.stages, self.head = stages, head

    def features(self, x: Tensor) -> Tensor:
        """The feature map (b, d, *spatial): what Dense MultiMix mixes."""
        return self.stages(x)

    def embed(self, x: Tensor) -> Tensor:
        """The embeddings (b, d), the mean of the feature map over the locations: what MultiMix mixes."""
        return self.features(x).flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, c)."""
        return self.head(self.features(x))


def build(channels: int, spatial: tuple[int, ...], classes: int, seed: int) -> Network:
    """A network that halves sequences or images until they are 10 long or 4 wide; `residual` for large images."""
    if len(spatial) == 2 and min(spatial) >= LARGE:
        return residual(channels, classes, seed)
    size, enough = max(spatial), 10 if len(spatial) == 1 else 4
    strides = []
    while size > enough:
        strides.append(2)
        size = (size + 1) // 2
    strides += [1] * (3 - len(strides))
    widths = [channels, WIDTH // 2] + [WIDTH] * (len(strides) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = [_stage(len(spatial), *sizes) for sizes in zip(widths[:-1], widths[1:], strides, strict=True)]
        return Network(nn.Sequential(*stages), MultiMixHead(WIDTH, classes, dense=True))


def residual(channels: int, classes: int, seed: int) -> Network:
    """A residual network whose feature map is a quarter of the image: 7x7 of 28x28 (He et al., CVPR 2016).

    Each location sees 31x31 pixels, so all of a small image: Dense MultiMix asks every one of them for the class.
    """
    first, second, last = RESIDUAL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = [_stage(2, channels, first, 2), _Residual(first, second, 2), _Residual(second, last, 1)]
        return Network(nn.Sequential(*stages), MultiMixHead(last, classes, dense=True))


class _Residual(nn.Module):
    """Two convolutions, the first of which may halve, and a projection past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _stage(2, inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.past = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.past(x))


def _stage(dimensions: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layers: tuple[nn.Module, nn.Module]
    if dimensions == 1:
        layers = nn.Conv1d(inputs, outputs, 5, stride, padding=2, bias=False), nn.BatchNorm1d(outputs)
    else:
        layers = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU())
