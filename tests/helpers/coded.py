"""Coded images: the values of pixels tell which samples they come from."""

import torch

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = ((1, 1), (1, 7), (2, 2), (8, 8), (13, 9), (32, 17))


def coded_images(count, size=(8, 8), dtype=torch.float32, channels=3):
    """Return images whose pixels are i + 1 in image i: exact in every dtype up to 256 images."""
    values = torch.arange(1, count + 1).view(-1, 1, 1, 1)
    return values.expand(count, channels, *size).to(dtype).contiguous()


def shares(images, count=None):
    """Return (B, count) float64: the share of each coded image in the pixels of each image."""
    count = len(images) if count is None else count
    flat = images.reshape(len(images), -1) if len(images) else images.reshape(0, 1)
    codes = torch.arange(1, count + 1, dtype=torch.float64)
    return (flat.double()[:, None] == codes[:, None]).double().mean(-1)


def coded_planes(count, size, dtype=torch.float32):
    """Return (count, 2 * count, H, W) images: channel k of sample k is 1, all others are 0.

    A fill has the same values in both halves of the channels, so the difference of the halves is
    the weight of each sample in a pixel, and 0 in a filled pixel. Moves, pastes and blends keep
    that, since they are linear and treat all channels alike.
    """
    weights = torch.eye(count, dtype=dtype)
    halves = torch.cat([weights, torch.zeros_like(weights)], 1)
    return halves[:, :, None, None].repeat(1, 1, *size)


def pixel_weights(images):
    """Return (B, count, H, W) float64: the weight of each sample in each pixel of coded planes."""
    weights, filled = images.as_subclass(torch.Tensor).double().chunk(2, 1)
    # A fill that the dtype cannot represent is infinite in both halves.
    return torch.where(weights == filled, 0.0, weights - filled)


def expected_labels(images, erased="renormalise"):
    """Return the labels (B, count) of coded planes whose sample k is of class k."""
    weights = pixel_weights(images).mean((2, 3))
    if erased == "renormalise":
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return weights


def bits(tensor):
    """View the memory of a tensor as integers, so that comparisons are bit for bit."""
    names = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(names[tensor.dtype.itemsize])


def seeded(seed=0):
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)
