"""
A training loop with pictures in TensorBoard
============================================

A small network learns to classify roses and tulips. The ``DataLoader`` mixes the batches, and one
batch of each epoch is logged to TensorBoard.

The example shows how the parts fit together. To measure the benefit of mixing, use a real data set
and several seeds.
"""

import tempfile
from importlib.util import find_spec

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn, viz
from tv_mixaug.extras import flowers

torch.manual_seed(0)
images, labels = flowers.draw_flowers(160, size=32)
images = images.as_subclass(torch.Tensor) / 255
train, test = TensorDataset(images[:128], labels[:128]), (images[128:], labels[128:])

# %%
# Mixed batches
# -------------
# Of five batches, two are mixed by Mixup, two by CutMix, and one is not mixed, on average. All have
# the same label format, so the loop does not depend on it.

collate_fn = make_collate_fn(
    [Mixup(0.4, num_classes=2), CutMix(num_classes=2, mode="sample")], p=[0.4, 0.4], seed=0
)
loader = DataLoader(train, batch_size=32, shuffle=True, collate_fn=collate_fn)

# %%
# TensorBoard
# -----------
# ``draw_batch`` returns (H, W, 3) uint8, which ``add_image`` calls ``"HWC"``. TensorBoard is
# optional.

if find_spec("tensorboard") is None:
    print("tensorboard is not installed; no log is written.")
    log = None
else:
    from torch.utils.tensorboard import SummaryWriter

    folder = tempfile.mkdtemp()
    log = SummaryWriter(folder)

# %%
# The loop
# --------
# PyTorch's cross-entropy accepts soft labels. Mixing is switched off in the last two epochs.

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(4),
    nn.Flatten(),
    nn.Linear(512, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
epochs, losses, accuracies = 14, [], []
for epoch in range(epochs):
    collate_fn.set_epoch(epoch)
    if epoch == epochs - 2:
        collate_fn.set_p([0.0, 0.0])
    model.train()
    total = 0.0
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() / len(loader)
    model.eval()
    with torch.no_grad():
        accuracy = (model(test[0]).argmax(1) == test[1]).float().mean().item()
    losses.append(total)
    accuracies.append(accuracy)
    if log:
        log.add_scalar("loss", total, epoch)
        log.add_scalar("accuracy", accuracy, epoch)
        sheet = viz.draw_batch(x[:8], y[:8], flowers.CLASS_NAMES)
        log.add_image("batch", sheet, epoch, dataformats="HWC")

# %%
# Loss and accuracy
# -----------------
# The loss on mixed labels cannot reach zero, since a label such as (0.6, 0.4) has a positive
# entropy. The loss drops when mixing ends.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(losses)
left.set(title="training loss", xlabel="epoch", ylim=(0, None))
right.plot(accuracies)
right.set(title="test accuracy, unmixed images", xlabel="epoch", ylim=(0, 1))
for axis in (left, right):
    axis.axvline(epochs - 2, color="0.6", linestyle=":")
figure.tight_layout()

# %%
# The log
# -------
# A mixed batch of the first epoch and an unmixed batch of the last one, read from the log.

if log:
    import io

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log.close()
    events = EventAccumulator(folder)
    events.Reload()
    shown = events.Images("batch")
    for event in (shown[0], shown[-1]):
        picture = plt.imread(io.BytesIO(event.encoded_image_string))
        figure = plt.figure(figsize=(9, 9 * picture.shape[0] / picture.shape[1] + 0.4))
        plt.imshow(picture)
        plt.title(f"step {event.step}", loc="left", fontsize=10)
        plt.axis("off")
