"""
Detection: objects follow the pixels
====================================

Targets are lists of dicts with ``boxes`` and ``labels``, as in torchvision's detection references.
CutMix crops the partner's objects to the pasted box and drops hidden objects. Mixup keeps the
objects of both images, each with a weight.
"""

import matplotlib.pyplot as plt
import torch
from torchvision.transforms.v2 import functional as v2f
from torchvision.utils import draw_bounding_boxes

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers

torch.manual_seed(0)

# %%
# A sample is an image and its target.

drawn = [flowers.draw_flower(flowers.CLASS_NAMES[i % 2], 160, seed=i) for i in range(5)]
dataset = [
    (flower.image, {"boxes": flower.box, "labels": torch.tensor([i % 2]), "image_id": i})
    for i, flower in enumerate(drawn)
]


def show(images, targets):
    """Draw images with boxes, class names and, if present, weights."""
    figure, axes = plt.subplots(1, len(images), figsize=(9, 2.5))
    for axis, image, target in zip(axes, images, targets, strict=True):
        names = [flowers.CLASS_NAMES[label] for label in target["labels"]]
        weights = target.get("mix_weight", torch.ones(len(names))).tolist()
        texts = [f"{name} {w:.2f}" for name, w in zip(names, weights, strict=True)]
        drawn = image
        if texts:
            drawn = draw_bounding_boxes(image, target["boxes"], colors="yellow", width=2)
        axis.imshow(drawn.permute(1, 2, 0))
        axis.set_title("\n".join(texts), fontsize=8)
        axis.axis("off")
    figure.tight_layout(pad=0.5)


show(*zip(*dataset, strict=True))

# %%
# CutMix
# ------
# An object is kept if at least 30 % of its area is visible. Its box shrinks to the visible part.

collate_fn = make_collate_fn(CutMix(mode="sample", min_visible=0.3))
images, targets = collate_fn(dataset)
show(images, targets)

# %%
# Mixup
# -----
# The objects of both images are kept. ``mix_weight`` is the weight of each object in the loss.

collate_fn = make_collate_fn(Mixup(mode="sample"))
images, targets = collate_fn(dataset)
show(images, targets)
print(targets[0]["labels"], targets[0]["mix_weight"])

# %%
# Images of unequal size
# ----------------------
# Images have one size when they are mixed. Padded below and at the right, boxes keep their places.


def pad(samples):
    """Pad images and boxes to 160 x 160 pixels, and stack the images."""
    images, targets = [], []
    for image, target in samples:
        border = [0, 0, 160 - image.shape[-1], 160 - image.shape[-2]]
        images.append(v2f.pad(image, border))
        targets.append({**target, "boxes": v2f.pad(target["boxes"], border)})
    return torch.stack(images), targets


cropped = []
for i, (image, target) in enumerate(dataset):
    size = (160, 110) if i % 2 else (120, 160)
    box = v2f.crop(target["boxes"], 0, 0, *size)
    cropped.append((v2f.crop(image, 0, 0, *size), {**target, "boxes": box}))

collate_fn = make_collate_fn(Mixup(lam=0.5), collate_fn=pad)
images, targets = collate_fn(cropped)
show(images, targets)
