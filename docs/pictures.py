"""Draw the pictures of the guide; `conf.py` calls :func:`draw_all` during the build."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn, viz
from tv_mixaug.extras import flowers

ORIGINAL, PARTNER = "#b3205d", "#2f6fb0"  # the colours of the label weights
SIZE = 192


def show(axis, image, title):
    axis.imshow(image.permute(1, 2, 0) if image.ndim == 3 else image, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=11)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")


def bar(axis, lam):
    """Draw a label as a bar: the weight of the original, then that of the partner."""
    axis.barh([0], [lam], color=ORIGINAL, height=0.5)
    axis.barh([0], [1 - lam], left=[lam], color=PARTNER, height=0.5)
    axis.text(0, -0.9, f"rose {lam:.2f}", color=ORIGINAL, va="center")
    if lam < 1:
        axis.text(1, -0.9, f"tulip {1 - lam:.2f}", color=PARTNER, va="center", ha="right")
    axis.set(xlim=(0, 1), ylim=(-1.3, 0.4))
    axis.axis("off")


def definition(path, original, partner, mask, result, lam):
    """Draw original, M, partner and result, with the label below the result."""
    gaps = {"hspace": 0.04, "wspace": 0.12}
    figure, axes = plt.subplots(2, 4, figsize=(10, 3), height_ratios=[6, 1], gridspec_kw=gaps)
    show(axes[0, 0], original, "original")
    show(axes[0, 1], mask, "M  (white 1, black 0)")
    show(axes[0, 2], partner, "fill" if lam == 1 else "partner")
    show(axes[0, 3], result, "result")
    for axis in axes[1, :3]:
        axis.axis("off")
    bar(axes[1, 3], lam)
    save(figure, path)


def save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)


def definitions(folder):
    rose, tulip = flowers.draw_flowers(2, SIZE)[0] / 255
    pair, partner = torch.stack([rose, tulip]), torch.tensor([1, 0])
    box = torch.tensor([[88, 24, 184, 120]] * 2)
    mask = functional.cutout(torch.ones(2, SIZE, SIZE), box)
    share = mask[0].mean().item()
    fill = torch.zeros(SIZE, SIZE)
    definition(folder / "cutout.png", rose, fill, mask[0], functional.cutout(pair, box)[0], 1.0)
    definition(
        folder / "cutmix.png", rose, tulip, mask[0], functional.cutmix(pair, partner, box)[0], share
    )
    lam = torch.tensor([0.6, 0.6])
    definition(
        folder / "mixup.png", rose, tulip, torch.full((SIZE, SIZE), 0.6),
        functional.mixup(pair, partner, lam)[0], 0.6,
    )  # fmt: skip


def beta(path):
    figure, axis = plt.subplots(figsize=(6.5, 3))
    x = torch.linspace(0.002, 0.998, 500)
    for alpha in (0.2, 1.0, 4.0):
        density = torch.distributions.Beta(alpha, alpha).log_prob(x).exp()
        axis.plot(x, density, label=f"alpha = {alpha:g}", linewidth=2)
    axis.set(xlabel="lam", ylabel="density", ylim=(0, 4), xlim=(0, 1))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    save(figure, path)


def modes(path):
    images, labels = flowers.draw_flowers(6, 128, seed=1)
    figure, axes = plt.subplots(
        2, 6, figsize=(10, 3.9), gridspec_kw={"wspace": 0.06, "hspace": 0.2}
    )
    for row, mode in zip(axes, ("batch", "sample"), strict=True):
        torch.manual_seed(5)
        mixed, _ = CutMix(num_classes=2, mode=mode)(images, labels)
        for axis, image in zip(row, mixed, strict=True):
            show(axis, image, "")
        row[0].set_title(f'mode="{mode}"', fontsize=11, loc="left")
    save(figure, path)


def pairings(path):
    count = 6
    original = torch.arange(count)
    torch.manual_seed(1)
    rules = {
        '"roll"': (original - 2) % count,
        '"shuffle"': torch.tensor([3, 1, 0, 5, 2, 4]),
        "a function: another class": torch.tensor([3, 5, 4, 1, 0, 2]),
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.4))
    for axis, (title, partner) in zip(axes, rules.items(), strict=True):
        colours = [ORIGINAL] * 3 + [PARTNER] * 3
        axis.scatter(original, [1] * count, c=colours, s=190, zorder=3)
        axis.scatter(original, [0] * count, c=colours, s=190, zorder=3)
        for i in range(count):
            for height in (0, 1):
                axis.text(i, height, str(i), color="white", ha="center", va="center", zorder=4)
            axis.annotate(
                "",
                (i, 0.15),
                (int(partner[i]), 0.85),
                arrowprops={"arrowstyle": "->", "color": "0.35"},
            )
        axis.set_title(title, fontsize=11)
        axis.set(xlim=(-0.6, count - 0.4), ylim=(-0.25, 1.25))
        axis.axis("off")
    axes[0].text(-0.7, 1, "partner", ha="right", va="center")
    axes[0].text(-0.7, 0, "original", ha="right", va="center")
    save(figure, path)


def pair_with_next(labels):
    return torch.arange(len(labels)).roll(-1)


def targets_of(flowers_drawn):
    """Return grey images, on which tints show, masks of classes 1 and 2, and targets."""
    kinds = [i % 2 for i in range(len(flowers_drawn))]
    images = torch.stack([v2.functional.rgb_to_grayscale(one.image, 3) for one in flowers_drawn])
    masks = torch.stack(
        [flower.mask * (1 + i) for flower, i in zip(flowers_drawn, kinds, strict=True)]
    )
    targets = [
        {"boxes": flower.box, "labels": torch.tensor([1 + i])}
        for flower, i in zip(flowers_drawn, kinds, strict=True)
    ]
    return tv_tensors.Image(images), tv_tensors.Mask(masks), targets


def draw_some(size, count=6):
    """Draw the flowers of :func:`contact_sheet`."""
    seeds = [1 + 1_000_003 * i for i in range(count)]
    return [flowers.draw_flower(flowers.CLASS_NAMES[i % 2], size, s) for i, s in enumerate(seeds)]


def mask_left_behind():
    """Draw what becomes of masks in torchvision after `default_collate`, and here."""
    drawn = draw_some(160)
    images, masks, _ = targets_of(drawn)
    samples = [
        {"image": image, "mask": mask, "label": i % 2}
        for i, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    rows = {
        "torchvision: CutMix after default_collate leaves the mask behind": lambda: v2.CutMix(
            alpha=8.0, num_classes=2
        )(default_collate(samples)),
        "tv_mixaug: CutMix in make_collate_fn": lambda: make_collate_fn(
            CutMix(8.0, num_classes=2, pairing=pair_with_next), seed=1
        )([{**one, "mask": tv_tensors.Mask(one["mask"])} for one in samples]),
    }
    sheets = []
    for title, mix in rows.items():
        torch.manual_seed(3)
        batch = mix()
        sheets.append(viz.draw_batch(batch["image"], masks=batch["mask"], title=title, cell=160))
    return np.concatenate(sheets)


def contact_sheet(columns=6):
    """Draw the picture of the landing page: the same flowers in five rows."""
    images, labels = flowers.draw_flowers(columns, 160, seed=1)
    # Each rose is paired with a tulip, and Beta(4, 4) seldom samples a weight near 0 or 1, so that
    # every picture shows its mix.
    options = {"num_classes": 2, "mode": "sample", "pairing": pair_with_next}
    rows = {
        "Plain": Cutout(num_classes=2, p=0.0),
        "Cutout": Cutout(0.4, num_classes=2),
        "Mixup": Mixup(4, **options),
        "CutMix": CutMix(4, **options),
    }
    torch.manual_seed(0)
    sheets = [
        viz.draw_batch(*transform(images, labels), flowers.CLASS_NAMES, title=title, cell=160)
        for title, transform in rows.items()
    ]
    images, masks, targets = CutMix(4, mode="sample", pairing=pair_with_next)(
        *targets_of(draw_some(160, columns))
    )
    title = "CutMix with masks and boxes"
    sheets.append(viz.draw_batch(images, masks=masks, boxes=targets, title=title, cell=160))
    return np.concatenate(sheets)


def thumbnail():
    """Draw one flower four times for the gallery: plain, Cutout, Mixup, CutMix."""
    rose, tulip = flowers.draw_flowers(2, SIZE)[0] / 255
    pair, partner = torch.stack([rose, tulip]), torch.tensor([1, 0])
    box = torch.tensor([[80, 40, 176, 136]] * 2)
    upper = torch.cat([rose, functional.cutout(pair, box)[0]], 2)
    blended = functional.mixup(pair, partner, torch.tensor([0.6, 0.6]))[0]
    lower = torch.cat([blended, functional.cutmix(pair, partner, box)[0]], 2)
    return torch.cat([upper, lower], 1).permute(1, 2, 0).numpy()


def draw_all(folder: Path) -> None:
    """Draw every picture into a folder."""
    folder.mkdir(exist_ok=True)
    definitions(folder)
    beta(folder / "beta.png")
    modes(folder / "modes.png")
    pairings(folder / "pairings.png")
    plt.imsave(folder / "contact_sheet.png", contact_sheet())
    plt.imsave(folder / "contact_sheet_narrow.png", contact_sheet(columns=3))
    plt.imsave(folder / "mask_left_behind.png", mask_left_behind())
    plt.imsave(folder / "thumbnail.png", thumbnail())
    for name, flower in zip(flowers.CLASS_NAMES, flowers.draw_flowers(2, SIZE)[0], strict=True):
        plt.imsave(folder / f"play_{name}.png", flower.permute(1, 2, 0).numpy())


if __name__ == "__main__":
    # The README is displayed without a build, so its pictures are part of the repository.
    for draw in (contact_sheet, mask_left_behind):
        plt.imsave(
            Path(__file__).parent / "_static" / f"{draw.__name__}.jpg",
            draw(),
            pil_kwargs={"quality": 88, "optimize": True},
        )
