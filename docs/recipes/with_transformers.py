"""Hugging Face Trainer: the criterion is an attribute of the model, so that the evaluation loss stays plain.

A criterion that is nobody's part is always in training mode, and the evaluation would report a mixed loss.
"""

import tempfile

import torch
import torch.nn.functional as F
from digits import load
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from multimix_kernels import MultiMixLoss

torch.manual_seed(0)
train, test = load()
model = ViTForImageClassification(
    ViTConfig(
        image_size=8, patch_size=4, num_channels=1, num_labels=10,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        initializer_range=0.1,
    )
)  # fmt: skip
model.criterion = MultiMixLoss(n=1000, alpha=0.2)


def loss_of(outputs, labels, num_items_in_batch=None):
    """The mean over the mini-batches that one step accumulates: Trainer adds up what it gets."""
    loss = model.criterion(outputs.logits, labels)
    return loss if num_items_in_batch is None else loss * (len(labels) / num_items_in_batch)


def collate(examples):
    images, labels = zip(*examples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


def metrics(prediction):
    scores, labels = map(torch.from_numpy, (prediction.predictions, prediction.label_ids))
    return {"plain": F.cross_entropy(scores, labels).item(), "accuracy": (scores.argmax(1) == labels).float().mean()}


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=8, learning_rate=2e-3, seed=0, use_cpu=True,
        per_device_train_batch_size=16, gradient_accumulation_steps=2, dataloader_drop_last=True,
        per_device_eval_batch_size=500, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=train, eval_dataset=test,
        compute_loss_func=loss_of, compute_metrics=metrics,
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
print(f"test loss {found['eval_loss']:.3f} (plain {found['eval_plain']:.3f}), accuracy {found['eval_accuracy']:.3f}")
