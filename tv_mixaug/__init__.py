"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""
