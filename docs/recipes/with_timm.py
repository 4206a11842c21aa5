"""timm: `train_loss_fn`, as its training script calls it, is the criterion; `validate_loss_fn` stays what it is."""

import timm
import torch
from digits import load
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import DataLoader

from multimix_kernels import MultiMixLoss

torch.manual_seed(0)
train, test = load(channels=3, size=32)
model = timm.create_model("test_resnet", num_classes=10)
train_loss_fn = MultiMixLoss(n=1000)
validate_loss_fn = nn.CrossEntropyLoss()
optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3)

for epoch in range(3):
    model.train()
    for x, y in DataLoader(train, batch_size=32, shuffle=True, drop_last=True):
        loss = train_loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = test.tensors
        scores = model(x)
    accuracy = (scores.argmax(1) == y).float().mean()
    print(f"epoch {epoch}: test loss {validate_loss_fn(scores, y):.3f}, accuracy {accuracy:.3f}")
