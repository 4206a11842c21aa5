"""torchvision: its networks end in a linear layer, so that only the criterion changes."""

import torch
from digits import load
from torch.utils.data import DataLoader
from torchvision.models import shufflenet_v2_x0_5

from multimix_kernels import MultiMixLoss

torch.manual_seed(0)
train, test = load(channels=3, size=32)
model = shufflenet_v2_x0_5(num_classes=10)
criterion = MultiMixLoss(n=1000, alpha=0.2)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

for epoch in range(4):
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
