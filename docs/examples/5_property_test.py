"""
A property test of a pipeline
=============================

``assert_labels_match_pixels`` calls a pipeline with images whose pixels encode their class, and
compares the result with the labels. It needs no knowledge of the pipeline. On the command line,
``tv-mixaug check train:collate --num-classes 10`` runs the same check on a pipeline in
``train.py``.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision.transforms import v2

from tv_mixaug import CutMix, functional, viz
from tv_mixaug.testing import assert_labels_match_pixels

# %%
# A correct pipeline
# ------------------

report = assert_labels_match_pixels(CutMix(num_classes=10, mode="sample"), num_classes=10)
print(f"{report.rows} rows compared, {report.mixed} of them mixed")

# %%
# A flip moves pixels and removes none, so this pipeline is correct, too.

pipeline = v2.Compose([CutMix(num_classes=10), v2.RandomHorizontalFlip()])
report = assert_labels_match_pixels(pipeline, num_classes=10)
print(f"{report.rows} rows compared, {report.mixed} of them mixed")

# %%
# A wrong pipeline
# ----------------
# This CutMix uses the *sampled* lam for the label. The pasted box has whole pixels and is clipped
# at the border, so its share differs.


def uncorrected_cutmix(images, labels):
    """Paste a box without correcting lam for clipping."""
    height, width = images.shape[-2:]
    lam = torch.rand(())
    half = (torch.tensor([width, height]) * (1 - lam).sqrt() / 2).long()
    centre = (torch.rand(2) * torch.tensor([width, height])).long()
    corners = torch.cat([(centre - half).clamp(min=0), (centre + half)])
    box = corners.minimum(torch.tensor([width, height] * 2)).expand(len(images), 4)
    partner = torch.arange(len(images)).roll(1)
    mixed = functional.cutmix(images, partner, box)
    rows = torch.nn.functional.one_hot(labels, 10)
    return mixed, functional.mix_labels(rows, partner, lam.expand(len(images)))


try:
    assert_labels_match_pixels(uncorrected_cutmix, num_classes=10)
except AssertionError as error:
    failure = error
    print(failure)

# %%
# The error holds the images of the smallest case, with the weights by label and by pixels.

wrong = failure.evidence
said = viz.draw_batch(wrong.images.float(), wrong.said.float(), title="Weights by label")
held = viz.draw_batch(wrong.images.float(), wrong.held.float(), title="Weights by pixels")
sheet = np.concatenate([said, held])
figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
figure.add_axes((0, 0, 1, 1)).imshow(sheet)
plt.axis("off")

# %%
# The same in pictures: the images have one colour per class, so each bar should have the shares of
# the colours in its picture. For clipped boxes it does not.

torch.manual_seed(4)
colours = torch.tensor([[179, 32, 93], [47, 111, 176], [226, 146, 38], [66, 145, 86]]) / 255
pictures = colours.repeat(2, 1)[:, :, None, None].expand(8, 3, 32, 32)
sheet = viz.draw_batch(*uncorrected_cutmix(pictures, torch.arange(8) % 4), columns=3)
figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
figure.add_axes((0, 0, 1, 1)).imshow(sheet)
plt.axis("off")

# %%
# Another wrong pipeline swaps the weights of the labels.


def swapped_mixup(images, labels):
    """Give the partner the weight of the original."""
    lam = torch.rand(len(images))
    partner = torch.arange(len(images)).roll(1)
    rows = torch.nn.functional.one_hot(labels, 10)
    mixed = functional.mixup(images, partner, lam)
    return mixed, functional.mix_labels(rows, partner, 1 - lam)


try:
    assert_labels_match_pixels(swapped_mixup, num_classes=10)
except AssertionError as error:
    print(error)
