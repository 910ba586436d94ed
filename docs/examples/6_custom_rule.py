"""
A mixing rule of your own
=========================

A rule that pastes other boxes is a subclass of ``CutMix`` with its own method ``sample``. Labels,
masks, detection targets, ``p``, collate functions, recorded plans and the test kit work without
further code.

This rule pastes a strip of random width from the right side of the partner.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from tv_mixaug import CutMix, make_collate_fn, viz
from tv_mixaug.engine import sampling
from tv_mixaug.engine.plan import PASTE, make_plan
from tv_mixaug.extras import flowers
from tv_mixaug.testing import assert_labels_match_pixels

# %%
# The rule
# --------
# ``sample`` returns a plan: which samples are mixed, their partners, the label weight of the
# original, and the boxes as x1, y1, x2, y2. The weight is computed from the pasted box. All random
# numbers come from ``source``, so that seeds, workers and threads need no further code.


class StripMix(CutMix):
    """Paste the right-hand part of the partner, over the full height."""

    def sample(self, batch, p, source):
        """Sample the column at which the strip begins."""
        count, (height, width), each = batch.length, batch.size, self.mode == "sample"
        applied = sampling.sample_applied(count, p, each, source)
        partner = sampling.sample_partner(count, self.pairing, batch.labels, source)
        lam = sampling.sample_lam(self.alpha, count if each else 1, source)
        column = np.rint(lam * width).astype(int)
        boxes = np.full((len(column), 1, 4), [0, 0, width, height])  # one box for each sample
        boxes[:, 0, 0] = column
        weight = column / width if each else column[0] / width
        return make_plan(PASTE, count, applied, partner=partner, lam=weight, boxes=boxes)


# %%
# Use
# ---

pictures, kinds = flowers.draw_flowers(6, size=128, seed=1)
torch.manual_seed(0)
images, labels = StripMix(num_classes=2, mode="sample")(pictures, kinds)
sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES, columns=3)
figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
figure.add_axes((0, 0, 1, 1)).imshow(sheet)
plt.axis("off")

# %%
# A collate function that chooses one of two rules:

collate_fn = make_collate_fn(
    [StripMix(num_classes=2, mode="sample"), CutMix(num_classes=2)], p=[0.5, 0.5], seed=0
)
images, labels = collate_fn(list(zip(pictures, kinds.tolist(), strict=True)))
print(tuple(images.shape), tuple(labels.shape))

# %%
# Test
# ----

report = assert_labels_match_pixels(StripMix(num_classes=10, mode="sample"), num_classes=10)
print(f"{report.rows} rows compared, {report.mixed} of them mixed: labels equal pixels.")
