"""
Segmentation: images and masks
==============================

CutMix pastes the same box into image and mask. A small network learns to segment the blossom.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, make_collate_fn
from tv_mixaug.extras import flowers

torch.manual_seed(0)

# %%
# Samples are pairs of an ``Image`` and a ``Mask``. ``labels_getter=None`` states that there is no
# label for the whole image.

drawn = [flowers.draw_flower(flowers.CLASS_NAMES[i % 2], 64, seed=i) for i in range(56)]
pairs = [(flower.image, flower.mask) for flower in drawn]
train, test = pairs[:48], pairs[48:]

collate_fn = make_collate_fn(CutMix(labels_getter=None, mode="sample"), seed=0)
loader = DataLoader(train, batch_size=16, shuffle=True, collate_fn=collate_fn)

images, masks = next(iter(loader))
print(type(images).__name__, tuple(images.shape), type(masks).__name__, tuple(masks.shape))

# %%
# Images and masks match: the same box is pasted into both.


def show(*rows):
    """Draw rows of images or masks."""
    figure, axes = plt.subplots(len(rows), 8, figsize=(9, 1.2 * len(rows)), squeeze=False)
    for row, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture.permute(1, 2, 0) if picture.ndim == 3 else picture, cmap="gray")
            axis.axis("off")
    figure.tight_layout(pad=0.3)


show(images[:8], masks[:8])

# %%
# A network with a large receptive field and few parameters, trained with cross-entropy:

model = nn.Sequential(
    nn.Conv2d(3, 16, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(32, 32, 5, padding=4, dilation=2),
    nn.ReLU(),
    nn.Conv2d(32, 2, 1),
    nn.Upsample(scale_factor=4, mode="bilinear"),
)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
losses = []
for epoch in range(15):
    collate_fn.set_epoch(epoch)
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x / 255), y.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

plt.figure(figsize=(5, 2.5))
plt.plot(losses)
plt.xlabel("step")
plt.ylabel("loss")
plt.tight_layout()

# %%
# Unmixed test images, their masks, and the predictions:

images, masks = (torch.stack(field) for field in zip(*test, strict=True))
with torch.no_grad():
    found = model(images / 255).argmax(1)
show(images, masks, found)
union = ((found == 1) | (masks == 1)).sum().item()
print(f"Intersection over union: {((found == 1) & (masks == 1)).sum().item() / union:.2f}")
