"""Lightning: the criterion is a part of the module, so that it mixes in training and is plain in validation."""

import lightning
import torch
from digits import load
from torch import nn
from torch.utils.data import DataLoader

from multimix_kernels import MultiMixLoss


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.criterion = MultiMixLoss(n=1000)

    def training_step(self, batch, index):
        x, y = batch
        loss = self.criterion(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        scores = self.model(x)
        accuracy = (scores.argmax(1) == y).float().mean()
        self.log_dict({"test loss": self.criterion(scores, y), "accuracy": accuracy})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


if __name__ == "__main__":
    lightning.seed_everything(0)
    train, test = load()
    trainer = lightning.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(
        Classifier(),
        DataLoader(train, batch_size=32, shuffle=True, drop_last=True),
        DataLoader(test, batch_size=len(test)),
    )
    found = trainer.callback_metrics
    print(f"test loss {found['test loss']:.3f}, accuracy {found['accuracy']:.3f}")
