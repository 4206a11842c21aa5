"""Small convolutional networks: a feature map, its mean over the locations, and a linear head."""

import torch
from torch import Tensor, nn

from multimix_kernels import MultiMixHead

WIDTH = 48


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
    """A network for sequences or images, which it halves until they are 10 long or 4 wide."""
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


def _stage(dimensions: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layers: tuple[nn.Module, nn.Module]
    if dimensions == 1:
        layers = nn.Conv1d(inputs, outputs, 5, stride, padding=2, bias=False), nn.BatchNorm1d(outputs)
    else:
        layers = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU())
