"""
A property test of a pipeline
=============================

``assert_labels_match_pixels`` sends images through a pipeline whose pixels say whose they are, and
compares what comes out with the labels. It knows nothing of the pipeline's inside. Without a test,
``tv-mixaug check train:collate --num-classes 10`` asks the same of a pipeline in ``train.py``.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision.transforms import v2

from tv_mixaug import CutMix, functional, viz
from tv_mixaug.testing import assert_labels_match_pixels

# %%
# A pipeline that tells the truth
# -------------------------------

report = assert_labels_match_pixels(CutMix(num_classes=10, mode="sample"), num_classes=10)
print(f"{report.rows} rows compared, {report.mixed} of them mixed")

# %%
# So does a chain with a flip, since a flip moves pixels and removes none.

pipeline = v2.Compose([CutMix(num_classes=10), v2.RandomHorizontalFlip()])
report = assert_labels_match_pixels(pipeline, num_classes=10)
print(f"{report.rows} rows compared, {report.mixed} of them mixed")

# %%
# A pipeline with a mistake
# -------------------------
# This CutMix takes the *drawn* share of the box for the label. The box that is really pasted has
# whole pixels, and covers less where it is clipped at the border.


def uncorrected_cutmix(images, labels):
    """Paste a box and forget to count what was clipped."""
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
# The failure keeps the pictures of the smallest case: what their labels say, and what they hold.

wrong = failure.evidence
said = viz.draw_batch(wrong.images.float(), wrong.said.float(), title="The labels say")
held = viz.draw_batch(wrong.images.float(), wrong.held.float(), title="The pixels hold")
sheet = np.concatenate([said, held])
figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
figure.add_axes((0, 0, 1, 1)).imshow(sheet)
plt.axis("off")

# %%
# The same by eye: every picture has one colour, that of its class. The bars below should be as long
# as the colours are wide. At the border they are not.

torch.manual_seed(4)
colours = torch.tensor([[179, 32, 93], [47, 111, 176], [226, 146, 38], [66, 145, 86]]) / 255
pictures = colours.repeat(2, 1)[:, :, None, None].expand(8, 3, 32, 32)
sheet = viz.draw_batch(*uncorrected_cutmix(pictures, torch.arange(8) % 4), columns=4)
figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
figure.add_axes((0, 0, 1, 1)).imshow(sheet)
plt.axis("off")

# %%
# Another: images mixed one way, labels the other.


def swapped_mixup(images, labels):
    """Give the partner the weight of the own image."""
    lam = torch.rand(len(images))
    partner = torch.arange(len(images)).roll(1)
    rows = torch.nn.functional.one_hot(labels, 10)
    mixed = functional.mixup(images, partner, lam)
    return mixed, functional.mix_labels(rows, partner, 1 - lam)


try:
    assert_labels_match_pixels(swapped_mixup, num_classes=10)
except AssertionError as error:
    print(error)
