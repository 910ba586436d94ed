"""
Each transform in pictures
==========================

Each transform is applied to the same six flowers. The bar below a picture shows its label.
"""

# sphinx_gallery_thumbnail_path = "pictures/thumbnail.png"
import matplotlib.pyplot as plt
import torch

from tv_mixaug import CutMix, Cutout, Mixup, viz
from tv_mixaug.extras import flowers

pictures, kinds = flowers.draw_flowers(6, size=128, seed=1)


def show(transform, seed=10):
    """Draw the flowers after a transform."""
    torch.manual_seed(seed)
    images, labels = transform(pictures, kinds)
    sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES, columns=3)
    figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(sheet)
    axis.axis("off")


# %%
# CutMix
# ------
# A box of the partner is pasted. With ``mode="sample"`` each image has its own box and weight.
show(CutMix(num_classes=2, mode="sample"))

# %%
# With ``mode="batch"``, the default, all images have the same box.
show(CutMix(num_classes=2))

# %%
# Mixup
# -----
# Two images are blended. With a small ``alpha`` most images are nearly unmixed.
show(Mixup(0.2, num_classes=2, mode="sample"))

# %%
# With ``alpha=1`` every weight is equally likely.
show(Mixup(1.0, num_classes=2, mode="sample"))

# %%
# Cutout
# ------
# A box with half the side of the image is erased, clipped at the border. The label is unchanged.
show(Cutout(0.5, num_classes=2))

# %%
# Three smaller holes, filled with noise.
show(Cutout(0.25, holes=3, fill="noise", num_classes=2))

# %%
# A tall hole, filled with the mean colour of the images.
mean = [round(value) for value in pictures.float().mean((0, 2, 3)).tolist()]
show(Cutout((0.9, 0.3), fill=mean, num_classes=2))

# %%
# Unmixed samples
# ---------------
# ``p=0.5`` with ``mode="sample"`` leaves about half of the images unmixed. Their labels have the
# same format as the others.
show(CutMix(num_classes=2, mode="sample", p=0.5), seed=1)
