"""
CutMix explained: ResNet-18, three accuracies, transfer
=======================================================

A widely read tutorial has a wrong formula for CutMix. This example first shows the correct one, and
then the corrected program: ResNet-18 is trained on CIFAR-10 with CutMix, training, validation and
test accuracy are logged to TensorBoard, and the network is fine-tuned on a second data set.
"""

# sphinx_gallery_thumbnail_number = 2
import itertools
import tempfile
from importlib.util import find_spec

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import CIFAR10, FashionMNIST

from tv_mixaug import CutMix, functional, make_collate_fn, viz
from tv_mixaug.extras import flowers
from tv_mixaug.metrics import mixed_accuracy

torch.manual_seed(0)

# %%
# The formula
# -----------
# .. container:: side-by-side
#
#    .. container::
#
#       Tutorial: images and labels are blended pixel by pixel
#
#       .. code-block:: text
#
#          image = lam · original + (1 − lam) · partner
#          label = lam · original + (1 − lam) · partner,
#                  pixel by pixel
#
#    .. container::
#
#       Correct: each pixel comes from one image; the label weight is the share of pixels
#
#       .. code-block:: text
#
#          image = M ⊙ original + (1 − M) ⊙ partner
#          label = mean(M) · original
#                  + (1 − mean(M)) · partner
#
# *M* is 0 inside a box and 1 elsewhere. A label is one row of class weights and has no pixels. The
# first formula is that of Mixup. Both formulas for a rose and a tulip:

pair, kinds = flowers.draw_flowers(2, 160)
original, partner = pair / 255
M = torch.ones(160, 160)
M[20:110, 70:150] = 0  # a box of 90 × 80 pixels
lam = M.mean()

blended = lam * original + (1 - lam) * partner  # the tutorial's formula: Mixup
cut = M * original + (1 - M) * partner  # CutMix

# The same with tv_mixaug: sample 1 is the partner of sample 0; boxes are x1, y1, x2, y2.
boxes = torch.tensor([[70, 20, 150, 110]] * 2)
assert torch.equal(functional.cutmix(pair / 255, torch.tensor([1, 0]), boxes)[0], cut)

figure, axes = plt.subplots(1, 5, figsize=(9, 2.1))
titles = (
    "original",
    "partner",
    "M",
    "tutorial: a blend",
    f"CutMix: rose {lam:.2f}, tulip {1 - lam:.2f}",
)
for axis, image, title in zip(axes, (original, partner, M, blended, cut), titles, strict=True):
    shown = image.permute(1, 2, 0) if image.ndim == 3 else image
    axis.imshow(shown.numpy(), cmap="gray", vmin=0)
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])
figure.tight_layout(pad=0.3)

# %%
# Two data sets
# -------------
# CIFAR-10 and Fashion-MNIST are read from the folder ``data``, in torchvision's layout, if they are
# there; nothing is downloaded. Otherwise they are replaced by drawn images: polygons and stars of
# ten classes, and roses and tulips. This page uses few images and a narrow network. For a full run
# set ``limit = None, width = 64, epochs = 30``.

data, limit, width, epochs = "data", 1000, 6, 6


def draw_shapes(count, rng):
    """Draw polygons and stars with 3 to 7 corners at random places in random colours."""
    labels = rng.integers(0, 10, count)
    pictures = rng.integers(0, 130, (count, 4, 4, 3)).astype(np.uint8)
    pictures = np.stack([cv2.resize(p, (32, 32), interpolation=cv2.INTER_CUBIC) for p in pictures])
    for picture, label in zip(pictures, labels, strict=True):
        corners = 3 + label // 2
        inner = 0.4 if label % 2 else np.cos(np.pi / corners)  # for the middle of a straight side
        turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(10, 14)
        angles = turn + np.arange(2 * corners) * np.pi / corners
        radii = np.where(np.arange(2 * corners) % 2, inner, 1) * radius
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        points = (points + rng.uniform(13, 19, 2)).round().astype(np.int32)
        cv2.fillPoly(picture, [points], rng.integers(130, 256, 3).tolist())
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.from_numpy(labels)


def find_sets():
    """Yield name, class names, training set and test set; each set is (images, labels)."""
    for kind in (CIFAR10, FashionMNIST):
        try:
            parts = [kind(data, train=train) for train in (True, False)]
        except RuntimeError:  # the data set is missing
            continue
        found = []
        for part in parts:
            images = torch.as_tensor(part.data[:limit])
            if images.ndim == 3:  # grey, 28 × 28
                images = nn.functional.pad(images, (2, 2, 2, 2))[..., None].expand(-1, -1, -1, 3)
            labels = torch.as_tensor(part.targets[:limit])
            found.append((images.permute(0, 3, 1, 2), labels))
        yield kind.__name__, parts[0].classes, *found
    rng = np.random.default_rng(0)
    names = [f"{kind} {corners}" for corners in range(3, 8) for kind in ("polygon", "star")]
    yield "drawn shapes", names, draw_shapes(limit, rng), draw_shapes(limit // 5, rng)
    parts = (flowers.draw_flowers(count, 32, seed) for count, seed in ((120, 2), (120, 3)))
    yield "drawn flowers", list(flowers.CLASS_NAMES), *parts


first, second = itertools.islice(find_sets(), 2)
for name, names, train, test in (first, second):
    print(f"{name}: {len(names)} classes, {len(train[1])} + {len(test[1])} pictures")

# %%
# Three loaders
# -------------
# Only the training loader mixes. Labels are (B, K) in all three, so one function handles all.


def make_loaders(parts, num_classes):
    """Return the collate function and the loaders for training, validation and test."""
    (images, labels), test = (((x.float() / 255 - 0.5) / 0.25, y) for x, y in parts)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    valid, train = order[: len(order) // 5], order[len(order) // 5 :]
    collate_fn = make_collate_fn(CutMix(num_classes=num_classes, mode="sample", p=0.5), seed=0)
    plain = collate_fn.for_validation()
    return collate_fn, {
        "train": DataLoader(
            TensorDataset(images[train], labels[train]),
            batch_size=25,
            shuffle=True,
            collate_fn=collate_fn,
        ),
        "valid": DataLoader(TensorDataset(images[valid], labels[valid]), 100, collate_fn=plain),
        "test": DataLoader(TensorDataset(*test), 100, collate_fn=plain),
    }


# %%
# ResNet-18
# ---------
# The variant for images of 32 × 32 pixels.


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.past = nn.Identity()
        if stride > 1 or inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.past = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x):
        return torch.relu(self.body(x) + self.past(x))


def resnet18(num_classes):
    """Return a ResNet-18; the original has ``width = 64``."""
    conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    layers = [conv, nn.BatchNorm2d(width), nn.ReLU()]
    for stage in range(4):
        inside, outside = width * 2 ** max(stage - 1, 0), width * 2**stage
        layers += [Block(inside, outside, 2 if stage else 1), Block(outside, outside, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width * 8, num_classes)]
    return nn.Sequential(*layers)


# %%
# The loop
# --------
# PyTorch's cross-entropy accepts mixed labels. The tutorial's accuracy, ``outputs.argmax(1) ==
# labels``, does not. ``mixed_accuracy`` is the mean label weight of the predicted classes. It stays
# below 1 in training, since a single prediction cannot name both classes of a mixed image.

device = "cuda" if torch.cuda.is_available() else "cpu"
if find_spec("tensorboard"):
    from torch.utils.tensorboard import SummaryWriter

    log = SummaryWriter(tempfile.mkdtemp())  # then: tensorboard --logdir FOLDER
else:
    print("tensorboard is not installed; no log is written.")
    log = None


def run(model, loader, optimizer=None, schedule=None):
    """Return the mean loss and accuracy over a loader; train if an optimizer is given."""
    model.train(optimizer is not None)
    sums = torch.zeros(3)
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model(images)
            loss = nn.functional.cross_entropy(outputs, labels)
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        figures = torch.tensor([loss.item(), mixed_accuracy(outputs, labels).item(), 1.0])
        sums += figures * len(images)
    return (sums[:2] / sums[2]).tolist()


def fit(title, model, found, epochs, rate):
    """Train a model, print and log each epoch, and return the accuracies and a mixed batch."""
    name, names, *parts = found
    collate_fn, loaders = make_loaders(parts, len(names))
    model = model.to(device)
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, **options)
    steps = epochs * len(loaders["train"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    history = {part: [] for part in loaders}
    print(f"\n{title}, {name}\nepoch  train loss  train  valid   test")
    for epoch in range(epochs):
        collate_fn.set_epoch(epoch)
        for part, loader in loaders.items():
            training = (optimizer, schedule) if part == "train" else ()
            loss, accuracy = run(model, loader, *training)
            history[part].append(accuracy)
            if part == "train":
                train_loss = loss
            if log:
                log.add_scalar(f"{title}/loss {part}", loss, epoch)
                log.add_scalar(f"{title}/accuracy {part}", accuracy, epoch)
        print(
            f"{epoch:5}  {train_loss:10.3f}" + "".join(f"  {h[-1]:5.3f}" for h in history.values())
        )
    images, labels = next(iter(loaders["train"]))
    sheet = viz.draw_batch(images[:6] * 0.25 + 0.5, labels[:6], names, columns=3)
    if log:
        log.add_image(f"{title}/batch", sheet, dataformats="HWC")
    return history, sheet


def show(sheet):
    """Show a contact sheet at its size."""
    figure = plt.figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100))
    figure.add_axes((0, 0, 1, 1)).imshow(sheet)
    plt.axis("off")


model = resnet18(len(first[1]))
history, sheet = fit("CutMix", model, first, epochs, rate=0.1)

# %%
# A batch of the training loader, half of it mixed:

show(sheet)

# %%
# The second data set
# -------------------
# The last layer is replaced, and all other layers keep their weights. The same network is also
# trained from scratch.

scratch = resnet18(len(second[1]))
model[-1] = nn.Linear(width * 8, len(second[1]))
transferred, sheet = fit("Transfer", model, second, epochs, rate=0.05)
fresh, _ = fit("From scratch", scratch, second, epochs, rate=0.05)
if log:
    log.close()
show(sheet)

# %%
# Accuracies
# ----------

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for part, values in history.items():
    left.plot(values, label=part)
left.set(title=first[0], xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
right.plot(transferred["test"], label="test, pretrained")
right.plot(fresh["test"], label="test, from scratch")
right.set(title=second[0], xlabel="epoch")
for axis in (left, right):
    axis.legend(frameon=False, fontsize=8)
figure.tight_layout()

# %%
# One seed and few easy images do not measure the benefit of CutMix or of pretraining. For CutMix
# see `the evidence <../guide/evidence.html>`_.
