"""A tracker of pixels that knows nothing of the package: the pixels themselves say whose they are.

An image of sample k has two halves of channels: in the first, channel k is 1, and all else is 0.
Whatever is filled has the same values in both halves, a constant or a tuple that says so. So the
difference of the halves is, in every pixel, the weight of each sample that is visible there; a
filled pixel has none. Moves, pastes and blends of any number keep that true, as they are linear and
treat channels alike.
"""

import torch


def coded_pictures(count, size, dtype=torch.float32):
    """Return (count, 2 * count, H, W) images whose pixels say whose they are."""
    own = torch.eye(count, dtype=dtype)
    halves = torch.cat([own, torch.zeros_like(own)], 1)
    return halves[:, :, None, None].repeat(1, 1, *size)


def pixel_weights(images):
    """Return (B, count, H, W) float64: the weight of each sample in each pixel."""
    own, filled = images.as_subclass(torch.Tensor).double().chunk(2, 1)
    # A fill that the dtype cannot hold is infinite in both halves.
    return torch.where(own == filled, 0.0, own - filled)


def expected_labels(images, erased):
    """Return what the labels have to be if sample k is of class k."""
    shares = pixel_weights(images).mean((2, 3))
    if erased == "renormalise":
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return shares
