"""Dense MultiMix of a Vision Transformer: its tokens are channels last, (b, prefix + tokens, d), with prefix tokens.

The losses take channels first. `tokens[:, prefix:].mT` drops the prefix (class and register tokens) and transposes:
feature maps (b, d, tokens), without a copy.
"""

import torch
from digits import load
from torch import nn
from torch.utils.data import DataLoader

from multimix_kernels import MultiMixHead


class Transformer(nn.Module):
    """16 patches of 2 x 2 pixels and one class token."""

    prefix = 1

    def __init__(self, d: int = 32):
        super().__init__()
        self.patches = nn.Conv2d(1, d, kernel_size=2, stride=2)
        self.cls = nn.Parameter(torch.zeros(1, 1, d))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, d))
        layer = nn.TransformerEncoderLayer(d, 2, 2 * d, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(d), enable_nested_tensor=False)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return self.encoder(x + self.positions)


torch.manual_seed(0)
train, test = load()
model = Transformer()
head = MultiMixHead(32, 10, dense=True, n=100, alpha=0.2)  # n for each of the 16 locations
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3)

for epoch in range(8):
    model.train(), head.train()
    for x, y in DataLoader(train, batch_size=32, shuffle=True, drop_last=True):
        tokens = model(x)
        loss = head(tokens[:, model.prefix :].mT, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval(), head.eval()
    with torch.no_grad():
        x, y = test.tensors
        scores = head(model(x)[:, model.prefix :].mT)  # of the mean over the patches
    accuracy = (scores.argmax(1) == y).float().mean()
    loss = nn.functional.cross_entropy(scores, y)
    print(f"epoch {epoch}: test loss {loss:.3f}, accuracy {accuracy:.3f}")
