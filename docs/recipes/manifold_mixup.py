"""Manifold mixup at the last layer is MultiMix with m = 2 and as many pairs as examples: n = b.

A weight of a pair is Beta(alpha, alpha), which is the Dirichlet law of two. Pairs are drawn for each mixture by itself,
where manifold mixup pairs the mini-batch with a permutation of itself; more pairs, n > b, cost little here.
"""

import torch
from digits import load
from torch import nn
from torch.utils.data import DataLoader

from multimix_kernels import MultiMixLoss

torch.manual_seed(0)
train, test = load()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
criterion = MultiMixLoss(n=32, m=2, alpha=2.0)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

for epoch in range(8):
    model.train(), criterion.train()
    for x, y in DataLoader(train, batch_size=32, shuffle=True, drop_last=True):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval(), criterion.eval()
    with torch.no_grad():
        x, y = test.tensors
        scores = model(x)
    accuracy = (scores.argmax(1) == y).float().mean()
    print(f"epoch {epoch}: test loss {criterion(scores, y):.3f}, accuracy {accuracy:.3f}")
