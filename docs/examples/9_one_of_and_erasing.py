"""
One of several, and Random Erasing
==================================

``OneOf`` applies at most one of its transforms, chosen for the batch or for each sample.
``RandomErasing`` fills boxes of random size and shape. The bar below a picture shows its label, and
the line below the bar shows its operation.
"""

import matplotlib.pyplot as plt
import torch

from tv_mixaug import CutMix, Mixup, OneOf, RandomErasing, functional, viz
from tv_mixaug.extras import flowers

kinds = torch.arange(6) % 2
names = flowers.CLASS_NAMES * 3
drawn = [flowers.draw_flower(name, 128, seed=i) for i, name in enumerate(names)]
pictures = torch.stack([flower.image for flower in drawn])


def show(transform, seed=0):
    """Draw the flowers after a transform, and return its plan."""
    torch.manual_seed(seed)
    (images, labels), plan = transform.mix((pictures, kinds))
    sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES, plan=plan, columns=3)
    figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(sheet)
    axis.axis("off")
    return plan


# %%
# Random Erasing
# --------------
# A box of random shape inside the image, with 2 to 33 % of its area. Labels are unchanged.
plan = show(RandomErasing(p=1.0, num_classes=2))

# %%
# The fill can be a random colour for each box, or noise. ``count`` boxes share the area.
plan = show(RandomErasing(p=1.0, fill="color", num_classes=2))

# %%
plan = show(RandomErasing(p=1.0, fill="noise", count=3, num_classes=2))

# %%
# One of several for each sample
# ------------------------------
# Some images are blended, some have a pasted box, some are erased. ``p`` has a probability for each
# transform; with the remaining probability an image is unchanged.
rules = [
    Mixup(num_classes=2, mode="sample"),
    CutMix(num_classes=2, mode="sample"),
    RandomErasing(p=1.0, num_classes=2),
]
each = OneOf(rules, p=[0.3, 0.3, 0.2], mode="sample")
plan = show(each, seed=4)

# %%
# With ``mode="batch"``, the default, one transform is chosen for all samples.
show(OneOf(rules, p=[0.3, 0.3, 0.2]), seed=3)

# %%
# Replay a plan
# -------------
# The plan can be applied to any tensor of the same size, here to masks of the blossoms. Blended
# masks are grey, and erased boxes are black.
masks = torch.stack([flower.mask for flower in drawn]).float()[:, None]
mixed = functional.replay(masks, plan)
print("operations:", plan.op.tolist(), "partners:", plan.partner.tolist())
figure, axes = plt.subplots(2, 6, figsize=(9, 3))
for column, (before, after) in enumerate(zip(masks, mixed, strict=True)):
    axes[0, column].imshow(before[0], cmap="gray", vmin=0, vmax=1)
    axes[1, column].imshow(after[0], cmap="gray", vmin=0, vmax=1)
for axis in axes.flat:
    axis.axis("off")

# %%
# ``p`` can be set at any time. With all probabilities 0, as in the last epochs of some recipes,
# images are unchanged, and labels keep their format.
each.p = [0, 0, 0]
plan = show(each)
