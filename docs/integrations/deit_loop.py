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

from tv_mixaug.timm import Mixup  # from timm.data import Mixup

SMOOTHING = 0.1


def train_one_epoch(model, criterion, loader, optimizer, device, mixup_fn):
    seen = []
    for samples, targets in loader:
        samples, targets = samples.to(device), targets.to(device)
        samples, targets = mixup_fn(samples, targets)
        # The mean of an image must equal its label without the smoothing.
        weight = (targets[:, 1] - SMOOTHING / 2) / (1 - SMOOTHING)
        torch.testing.assert_close(samples.mean((1, 2, 3)), weight, atol=1e-5, rtol=0)
        loss = criterion(model(samples), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(targets.cpu())
    return torch.cat(seen)


def train(mode):
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # All pixels of an image are its class, 0 or 1.
    labels = torch.arange(61) % 2
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    mixup_fn = Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_minmax=None, prob=1.0, switch_prob=0.5, mode=mode,
        label_smoothing=SMOOTHING, num_classes=2,
    )  # fmt: skip
    model = timm.create_model("test_vit", pretrained=False, num_classes=2, img_size=32).to(device)
    criterion = SoftTargetCrossEntropy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epochs, mixup_off_epoch = 3, 2
    seen = []
    for epoch in range(epochs):
        # Labels keep their format, so the loss does not change.
        mixup_fn.mixup_enabled = epoch < mixup_off_epoch
        seen.append(train_one_epoch(model, criterion, loader, optimizer, device, mixup_fn))
    return seen


def main():
    plain = 1 - SMOOTHING / 2
    for mode in ("batch", "pair", "elem"):
        first, again = train(mode), train(mode)
        if not all(map(torch.equal, first, again)):
            raise SystemExit("a second run with the same seed has different mixes.")
        mixed = [int((labels.amax(1) < plain - 1e-6).sum()) for labels in first]
        print(f"mode {mode}: {mixed} of 61 labels mixed in three epochs of odd last batches")
        if not (mixed[0] and mixed[1]) or mixed[2]:
            raise SystemExit("two epochs must be mixed, and the last one must not.")


if __name__ == "__main__":
    main()
