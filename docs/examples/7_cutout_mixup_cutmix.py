"""
Cutout, Mixup and CutMix: the whole program
===========================================

A ``Dataset`` reads eight pictures of roses and tulips with OpenCV, and a network is trained on
mixed batches of them. Each step is shown next to the code that tutorials use for it.

The example shows how the parts fit together. Eight pictures are too few to measure the benefit of
mixing.
"""

# %%
# Eight files
# -----------
# The files are drawn, so that nothing is downloaded. With your own photographs in one folder per
# class, continue with the next step.

import tempfile
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tv_mixaug import CutMix, Cutout, MixCriterion, Mixup, make_collate_fn, viz
from tv_mixaug.extras import flowers
from tv_mixaug.metrics import mixed_accuracy

torch.manual_seed(0)
names = flowers.CLASS_NAMES
folder = Path(tempfile.mkdtemp())
files = flowers.write_image_folder(folder / "train", count_per_class=4, size=(300, 400))
print(*(file.relative_to(folder) for file in files), sep="\n")

# %%
# A ``Dataset``
# -------------
# The data set reads a file, converts BGR to RGB, resizes, and moves the channels to the first axis.
# If the last step is missing, the transform raises an error that names it.


class FlowerFiles(Dataset):
    """Images whose class is the name of their folder."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        pixels = cv2.imread(str(self.files[index]))  # (H, W, 3), blue, green, red
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        pixels = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (3, 256, 256)
        return image, names.index(self.files[index].parent.name)


train = FlowerFiles(files)

# %%
# Code of tutorials
# -----------------
# .. container:: side-by-side
#
#    .. container::
#
#       Tutorial: a hole in one image
#
#       .. code-block:: python
#
#          def cutout(image, side):  # in the Dataset
#              y, x = np.random.randint(0, 256 - side, 2)
#              image[:, y : y + side, x : x + side] = 0
#              return image
#
#    .. container::
#
#       tv_mixaug: a hole in each image
#
#       .. code-block:: python
#
#          Cutout(0.4, num_classes=2)
#
# .. container:: side-by-side
#
#    .. container::
#
#       Tutorial: labels become three values
#
#       .. code-block:: python
#
#          def mixup(images, labels, alpha):
#              order = torch.randperm(len(images))
#              lam = np.random.beta(alpha, alpha)
#              others = images[order]
#              images = lam * images + (1 - lam) * others
#              return images, (labels, labels[order], lam)
#
#    .. container::
#
#       tv_mixaug: one label format
#
#       .. code-block:: python
#
#          Mixup(1.0, num_classes=2)
#
# .. container:: side-by-side
#
#    .. container::
#
#       Tutorial: the batch is changed in place
#
#       .. code-block:: python
#
#          def cutmix(images, labels, alpha):
#              order = torch.randperm(len(images))
#              x1, y1, x2, y2 = random_box(256, alpha)
#              box = ..., slice(y1, y2), slice(x1, x2)
#              images[box] = images[order][box]
#              lam = 1 - (x2 - x1) * (y2 - y1) / 256**2
#              return images, (labels, labels[order], lam)
#
#    .. container::
#
#       tv_mixaug: a new batch
#
#       .. code-block:: python
#
#          CutMix(1.0, num_classes=2)
#
# Differences: a hole may cross the border, as in the paper, so that pixels at the border are erased
# as well. No image is its own partner (``randperm`` pairs one image with itself on average). The
# given batch is not changed. All dtypes work, also ``uint8``. ``mode="sample"`` samples a mix for
# each image.

transforms = {
    "Cutout": Cutout(0.4, num_classes=2),
    "Mixup": Mixup(1.0, num_classes=2),
    "CutMix": CutMix(1.0, num_classes=2),
}


def draw(images, labels, title):
    """Return a row of images with their labels."""
    return viz.draw_batch(images, labels, names, title=title, columns=3, cell=64)


def show(*rows):
    """Show rows of images."""
    sheet = np.concatenate(rows)
    figure = plt.figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(sheet)
    axis.axis("off")


images, labels = next(iter(DataLoader(train, batch_size=8)))
show(draw(images, labels, "Plain"), *(draw(*t(images, labels), n) for n, t in transforms.items()))

# %%
# Batches of eight
# ----------------
# ``p_mixup`` and ``p_cutmix`` are the shares of mixed batches, as in the tutorials. In a tutorial
# the loop chooses, and labels are either one tensor or three values. Here the ``DataLoader``
# chooses, and all batches have the same label format.

p_cutout, p_mixup, p_cutmix = 0.25, 0.25, 0.25
collate_fn = make_collate_fn(
    list(transforms.values()), p=[p_cutout, p_mixup, p_cutmix], seed=0, record=True
)
loader = DataLoader(train, batch_size=8, shuffle=True, collate_fn=collate_fn)

# %%
# Eight other flowers are the validation set, with the same label format and without mixing.

others = flowers.write_image_folder(folder / "valid", count_per_class=4, size=(300, 400), seed=1)
valid = FlowerFiles(others)
valid_loader = DataLoader(valid, batch_size=8, collate_fn=collate_fn.for_validation())

# %%
# The criterion
# -------------
# .. container:: side-by-side
#
#    .. container::
#
#       Tutorial: depends on whether the batch is mixed
#
#       .. code-block:: python
#
#          def mixed_criterion(outputs, labels):
#              original, partner, lam = labels
#              loss = nn.CrossEntropyLoss()
#              return (
#                  lam * loss(outputs, original)
#                  + (1 - lam) * loss(outputs, partner)
#              )
#
#    .. container::
#
#       tv_mixaug: any criterion, any labels
#
#       .. code-block:: python
#
#          criterion = MixCriterion(nn.CrossEntropyLoss())
#
# ``MixCriterion`` accepts class indices, soft labels and pairs (``targets="pair"``, the three
# values of the tutorials), with one weight for each image.

criterion = MixCriterion(nn.CrossEntropyLoss())

# %%
# Training
# --------
# ``mixed_accuracy`` is the mean label weight of the predicted classes. For unmixed batches it is
# the ordinary accuracy.

model = nn.Sequential(
    nn.AvgPool2d(4),
    nn.Conv2d(3, 16, 5, stride=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 5, stride=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(4),
    nn.Flatten(),
    nn.Linear(512, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
operations = ("plain", "Cutout", "Mixup", "CutMix")  # by plan.op
rows = []
print("epoch  batch    loss  accuracy  valid loss  valid accuracy")
for epoch in range(12):
    collate_fn.set_epoch(epoch)
    model.train()
    for images, labels, plan in loader:  # one batch, since there are eight files
        outputs = model(images)
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = mixed_accuracy(outputs, labels)
        operation = operations[int(plan.op.max())]
        rows.append(draw(images, labels, f"Epoch {epoch}: {operation}"))
    model.eval()
    with torch.no_grad():
        for images, labels, _ in valid_loader:
            outputs = model(images)
            valid_loss, valid_accuracy = criterion(outputs, labels), mixed_accuracy(outputs, labels)
    print(f"{epoch:5}  {operation:6} {loss:6.3f}  {accuracy:8.2f}", end="")
    print(f"  {valid_loss:10.3f}  {valid_accuracy:14.2f}")

# %%
# The network soon memorises eight pictures, which does not generalise to the other eight. For that,
# set ``count_per_class`` to 100.

# %%
# The batch of each epoch
# -----------------------

show(*rows)
