"""
Each transform in pictures
==========================

The same six flowers go through each transform. The bar below a picture is its label.
"""

# sphinx_gallery_thumbnail_path = "pictures/thumbnail.png"
import matplotlib.pyplot as plt
import torch

from tv_mixaug import CutMix, Cutout, Mixup, viz
from tv_mixaug.extras import flowers

pictures, kinds = flowers.draw_flowers(6, size=128, seed=1)


def show(transform, seed=10):
    """Draw what a transform makes of the flowers."""
    torch.manual_seed(seed)
    images, labels = transform(pictures, kinds)
    sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES)
    figure = plt.figure(figsize=(9, 9 * sheet.shape[0] / sheet.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(sheet)
    axis.axis("off")


# %%
# CutMix
# ------
# A box of the partner is pasted. With ``mode="sample"`` every image has a box and a weight of its
# own.
show(CutMix(num_classes=2, mode="sample"))

# %%
# With ``mode="batch"``, the default, one box serves the whole batch.
show(CutMix(num_classes=2))

# %%
# Mixup
# -----
# Two images are blended. A small ``alpha`` keeps most of them nearly pure.
show(Mixup(0.2, num_classes=2, mode="sample"))

# %%
# With ``alpha=1`` every weight is equally likely.
show(Mixup(1.0, num_classes=2, mode="sample"))

# %%
# Cutout
# ------
# A box is erased: half the side here, clipped at the border. The label keeps its weight.
show(Cutout(0.5, num_classes=2))

# %%
# Three smaller holes, filled with noise.
show(Cutout(0.25, holes=3, fill="noise", num_classes=2))

# %%
# A tall hole in the mean colour of the pictures.
mean = [round(value) for value in pictures.float().mean((0, 2, 3)).tolist()]
show(Cutout((0.9, 0.3), fill=mean, num_classes=2))

# %%
# Some of them only
# -----------------
# ``p=0.5`` with ``mode="sample"`` leaves about every second image as it was. Its label has the same
# format as the others.
show(CutMix(num_classes=2, mode="sample", p=0.5), seed=1)
