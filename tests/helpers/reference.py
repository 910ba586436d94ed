"""A slow reference for mixing: plans are applied sample by sample, box by box, in float64."""

import torch

FILL, BLEND, PASTE = 1, 2, 3


def random_images(shape, dtype=torch.float32):
    """Return images of all grey levels: 0 to 255 for integers, in [0, 1] for floating point."""
    pixels = torch.randint(256, shape)
    return (pixels / 255 if dtype.is_floating_point else pixels).to(dtype)


def random_boxes(shape, size):
    """Return (*shape, 2 d) boxes with any sides, also of length 0, in images of a size."""
    ends = torch.stack([torch.randint(n + 1, (*shape, 2)) for n in reversed(size)], -1)
    return ends.sort(-2).values.flatten(-2)


def apply_by_hand(images, plan, fill=0.0):
    """Return the exact pixels, in float64, that a plan makes of (B, C, ...) images."""
    wide = images.double()
    out, value = wide.clone(), torch.tensor(fill).double().expand(images.shape[1])
    value = value.view(-1, *[1] * (images.ndim - 2))
    rows = zip(plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), strict=True)
    for row, (op, partner, lam) in enumerate(rows):
        if op == BLEND:
            out[row] = lam * wide[row] + (1 - lam) * wide[partner]
        for box in plan.boxes[row].tolist() if op in (FILL, PASTE) else ():
            low, high = box[: len(box) // 2][::-1], box[len(box) // 2 :][::-1]
            region = (..., *map(slice, low, high))
            out[row][region] = value if op == FILL else wide[partner][region]
    return out


def mix_by_hand(rows, plan):
    """Return ``lam * original + (1 - lam) * partner`` of (B, ...) rows, in float64."""
    lam = plan.lam.double().view(-1, *[1] * (rows.ndim - 1))
    return lam * rows.double() + (1 - lam) * rows[plan.partner].double()


def assert_rounded(images, exact):
    """Assert that images are exact values, rounded once to their dtype."""
    dtype = images.dtype
    if dtype.is_floating_point:
        slack = {2: torch.finfo(dtype).eps, 4: 1e-6, 8: 1e-12}[dtype.itemsize]
    else:
        slack = 0.5 + 1e-4  # for values halfway between two grey levels
    torch.testing.assert_close(images.double(), exact, atol=slack, rtol=0)
