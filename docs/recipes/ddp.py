"""Plain PyTorch on several processes: `torchrun --nproc-per-node 2 docs/recipes/ddp.py`.

Each rank mixes its own mini-batch. With `--all-ranks` it mixes those of all ranks together: the ranks' scores are
gathered, and each computes its share of the n interpolated examples.
"""

import sys

import torch
import torch.distributed as dist
from digits import load
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from multimix_kernels import MultiMixLoss, mixed_cross_entropy
from multimix_kernels.distributed import gather, share

all_ranks = "--all-ranks" in sys.argv[1:]
dist.init_process_group("gloo")  # on GPUs: nccl
torch.manual_seed(0)
train, test = load()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
model = DistributedDataParallel(model)
criterion = MultiMixLoss(n=1000)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
sampler = DistributedSampler(train, drop_last=True)
torch.manual_seed(dist.get_rank())  # the ranks mix differently

for epoch in range(8):
    sampler.set_epoch(epoch)
    for x, y in DataLoader(train, batch_size=16, sampler=sampler, drop_last=True):
        if all_ranks:
            scores, y = gather(model(x), y)
            loss = mixed_cross_entropy(scores, y, **share(1000, scores.device))
        else:
            loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    criterion.eval(), model.eval()
    with torch.no_grad():
        x, y = test.tensors
        scores = model(x)
        loss, accuracy = criterion(scores, y), (scores.argmax(1) == y).float().mean()
    criterion.train(), model.train()
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: test loss {loss:.3f}, accuracy {accuracy:.3f}")

dist.destroy_process_group()
