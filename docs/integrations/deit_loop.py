"""DeiT, ConvNeXt and Swin: mix batches on the device with timm's arguments.

Only the import changes in such a script, since the constructor takes the same arguments. Model and
loss are timm's.
"""

import sys
from importlib.util import find_spec

if find_spec("timm") is None:
    print("skipped: timm is not installed; pip install timm")
    sys.exit(0)

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug.extras import flowers
from tv_mixaug.timm import Mixup  # from timm.data import Mixup


def train_one_epoch(model, criterion, loader, optimizer, device, mixup_fn):
    for samples, targets in loader:
        samples, targets = samples.to(device), targets.to(device)
        samples, targets = mixup_fn(samples, targets)
        loss = criterion(model(samples), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = flowers.draw_flowers(61, size=32)  # the last batch is odd
    loader = DataLoader(TensorDataset(images / 255, labels), batch_size=16, shuffle=True)
    mixup_fn = Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_minmax=None, prob=1.0, switch_prob=0.5,
        mode="batch", label_smoothing=0.1, num_classes=2,
    )  # fmt: skip
    model = timm.create_model("test_vit", pretrained=False, num_classes=2, img_size=32).to(device)
    criterion = SoftTargetCrossEntropy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epochs, mixup_off_epoch = 3, 2
    for epoch in range(epochs):
        # Labels keep their format, so the loss does not change.
        mixup_fn.mixup_enabled = epoch < mixup_off_epoch
        loss = train_one_epoch(model, criterion, loader, optimizer, device, mixup_fn)
        print(f"epoch {epoch}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
