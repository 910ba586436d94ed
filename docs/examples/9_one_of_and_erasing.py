"""
One of several, and Random Erasing
==================================

``OneOf`` applies at most one of its transforms: one for the batch, or for each sample its own.
``RandomErasing`` fills boxes of random size and shape. The line below a picture says what was done
to it, the bar is its label.
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
    """Draw what a transform makes of the flowers, and return its plan."""
    torch.manual_seed(seed)
    (images, labels), plan = transform.mix((pictures, kinds))
    sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES, plan=plan)
    figure = plt.figure(figsize=(9, 9 * sheet.shape[0] / sheet.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(sheet)
    axis.axis("off")
    return plan


# %%
# Random Erasing
# --------------
# A box of 2 to 33 % of the picture, of a random shape, wholly inside it. Labels keep their weight.
plan = show(RandomErasing(p=1.0, num_classes=2))

# %%
# The fill can be a colour of each box's own, or noise; ``count`` boxes share the area.
plan = show(RandomErasing(p=1.0, fill="color", num_classes=2))

# %%
plan = show(RandomErasing(p=1.0, fill="noise", count=3, num_classes=2))

# %%
# One of several for each sample
# ------------------------------
# Some pictures are blended, some have a box pasted, some are erased. ``p`` has a number for each
# transform; with what is left to 1 a picture stays as it was.
rules = [
    Mixup(num_classes=2, mode="sample"),
    CutMix(num_classes=2, mode="sample"),
    RandomErasing(p=1.0, num_classes=2),
]
each = OneOf(rules, p=[0.3, 0.3, 0.2], mode="sample")
plan = show(each, seed=4)

# %%
# With ``mode="batch"``, the default, the choice is one for all.
show(OneOf(rules, p=[0.3, 0.3, 0.2]), seed=3)

# %%
# The plan says it all
# --------------------
# The same plan, on anything of the same size: here on the masks of the blossoms. What is blended
# becomes grey, what is erased black.
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
# ``p`` can be set at any time. Here, as in the last epochs of a training, it leaves everything
# alone. The labels keep their format.
each.p = [0, 0, 0]
plan = show(each)
