"""
A property test of a pipeline
=============================

``assert_labels_match_pixels`` sends images through a pipeline whose pixels say whose they are, and
compares what comes out with the labels. It knows nothing of the pipeline's inside.
"""

import torch
from torchvision.transforms import v2

from tv_mixaug import CutMix, functional
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
# This CutMix is often seen: the label weight is the *drawn* share of the box. Where the box is
# clipped at the border, it covers less.


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
    print(error)

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
