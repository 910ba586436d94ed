"""What makes labels and targets wrong, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """A probable cause; the text may have fields to be filled in."""

    text: str
    remedy: str

    def of(self, **values: object) -> Cause:
        """Fill the fields of the text in."""
        return self._replace(text=self.text.format(**values))


NOT_FINITE = Cause(
    "the label holds NaN or infinity.",
    "Look for a lam that divides by an empty box, or labels of a narrow dtype.",
)
ROUNDED = Cause(
    "class numbers were rounded: they passed through {dtype}, which has not all of them.",
    "Do not cast labels to the dtype of the images; keep integers, or float32.",
)
SMOOTHED = Cause(
    "labels are smoothed otherwise than stated; pass `label_smoothing=`.",
    "Say how much the pipeline smooths: `label_smoothing=`, or `--label-smoothing`.",
)
BLACK = Cause(
    "the images are black: values in [0, 1] were truncated to integers.",
    "Feed bytes (`dtypes=(torch.uint8,)`, or `--dtype uint8`), or do not cast floats to bytes.",
)
RESCALED = Cause(
    "the images were normalised or rescaled; pass `mean=` and `std=`.",
    "Say how the pipeline normalises: `mean=` and `std=`, or `--mean` and `--std`.",
)
FOREIGN = Cause(
    "pixels were erased or filled without being promised (`erased=`), or wrapped around or "
    "truncated as integers, or normalised (`mean=`, `std=`).",
    "Say what fills erased pixels: `erased=`, or `--erased`. If nothing is meant to be erased, "
    "look for a cast of the images to integers.",
)
WRONG_SUM = Cause(
    "the label's weights sum to {total:.4g}.",
    "Divide by the sum, or give the label of what is erased to the rest.",
)
STILL_COUNTED = Cause(
    "the label still counts pixels that were erased.",
    "Erase before mixing, or count the label from the pixels that are left, as `Chain` does.",
)
SWAPPED = Cause(
    "the weights are swapped: lam was given to the wrong one of the two.",
    "Give lam to the label of the sample's own image and 1 - lam to its partner's.",
)
LABELS_NOT_MIXED = Cause(
    "the images were mixed but the labels were not.",
    "Return labels of (B, K) weights, or pairs with lam, and train on those.",
)
PARTNER_ALONE = Cause(
    "the images were mixed, and the label is that of the partner alone.",
    "Mix labels by lam; what cuts boxes out of pictures does not fit rows of classes.",
)
LAM_TRUNCATED = Cause(
    "truncated integers: lam was cast to the images' integer type.",
    "Keep lam in float32, and mix before images become bytes or after they are floats.",
)
IMAGES_NOT_MIXED = Cause(
    "the labels were mixed but the images were not.",
    "Check which tensor is taken for the images: a first or second tensor, a key, a tv_tensor.",
)
OTHER_SAMPLES = Cause(
    "labels and images were paired with different samples.",
    "Draw one permutation (or roll by one number) and index images and labels with it.",
)
COVERED = Cause(
    "a later operation covered part of an earlier mix, and the labels were mixed as if it had not.",
    "Mix once, or use `Chain`, which follows every pixel and counts at the end.",
)
BLEND_TRUNCATED = Cause(
    "truncated integers: the blend was cut off, or lam was, instead of rounded.",
    "Blend in float32 and round the sum before casting to bytes.",
)
OTHER_LAM = Cause(
    "the pixels were blended with another lam than the labels.",
    "Draw lam once and hand the same number to images and labels; check its shape, (B, 1, 1, 1).",
)
ONE_LINE = Cause(
    "the area of the {height} × {width} box is off by one {line} of pixels.",
    "Count the box as it is sliced, half-open: (y2 - y1) * (x2 - x1).",
)
OTHER_PIXELS = Cause(
    "other pixels were counted than were pasted, or a later operation covered some.",
    "Count the area of the very box that is pasted, after clipping; if more follows, use `Chain`.",
)
NOT_CORRECTED = Cause(
    "the area was not corrected: the label has the lam that was drawn, not the share of pixels "
    "that was pasted.",
    "After clipping the box set lam = 1 - area / (H * W), and use that for the labels.",
)
VAGUE = (FOREIGN, OTHER_PIXELS)  # what is said where nothing better is known

MASK_NOT_FILLED = Cause(
    "the mask was not filled where the image was erased.",
    "Fill the mask's box with the class that stands for nothing.",
)
MASK_LEFT_BEHIND = Cause(
    "the mask was left behind: the image was mixed and the mask was not.",
    "Hand the mask to the transform, and keep its type while collating: `default_collate` makes "
    "plain tensors of masks.",
)
MASK_ALONE = Cause(
    "the mask was mixed and the image was not.",
    "Check which tensor is taken for the image.",
)
MASK_OTHER_SAMPLES = Cause(
    "mask and image were paired with different samples, or class ids were blended.",
    "Use one permutation for both, and never average class numbers.",
)
MASK_ELSEWHERE = Cause(
    "mask and image were mixed at different places, or with different weights.",
    "Draw one box, or one lam, and use it for both.",
)
MASK_FOREIGN = Cause(
    "{count} pixels have a colour that no mix of the samples gives; if they are erased on purpose, "
    "pass `erased=True`.",
    "Say that pixels may be erased: `erased=True`.",
)
BOXES_BEHIND = Cause(
    "boxes are not those of what can be seen.",
    "Cut, clip and drop the boxes with the pixels, and take their labels along.",
)
INPUTS_CHANGED = Cause(
    "the pipeline writes into the tensors that it is given.",
    "Clone before writing: a data set that keeps its images hands the changed ones out again.",
)
TWO_FORMATS = Cause(
    "batches that are not mixed keep another kind of label.",
    "Encode labels in every batch, mixed or not, to (B, K) float32 or to pairs.",
)
P_IGNORED = Cause(
    "{what} are mixed in every case: p is not looked at.",
    "Draw whether to mix before mixing.",
)
NEVER_MIXED = Cause(
    "no {what} are mixed at all.",
    "Check that p reaches the transform, and that it is switched on.",
)
P_INVERTED = Cause(
    "p is taken for the share that is left alone.",
    "Mix if the number drawn is below p.",
)
P_TWICE = Cause(
    "p was applied twice, once for the batch and once for the sample: p² = {squared:.3g}.",
    "Draw once, for the batch or for the sample; the other probability is 1.",
)
P_OTHER = Cause(
    "p does not reach the transform, or another draw stands in its way.",
    "Look for a second probability, such as that of a container, and multiply.",
)
P_UNIT = Cause(
    "samples are chosen within a batch, where whole batches were said to be.",
    "Say so: `per='sample'`, or `--per sample`; or draw once for the batch.",
)
DRAWN_ONCE = Cause(
    "one draw is used again in every call.",
    "Draw in the call, and seed once, not in every call; what is fixed on purpose is not asked "
    "with `--fixed`.",
)
SHARED_LAM = Cause(
    "all samples of a batch have one lam.",
    "Draw lam with the shape (B,); or say that draws are for the batch: `per='batch'`.",
)
SHARED_PLACE = Cause(
    "the boxes of a batch differ in size and share one place.",
    "Draw the place with the shape (B,), like the size.",
)
WORKERS_REPEAT = Cause(
    "workers have copies of one random generator, and draw the same.",
    "Seed by `torch.initial_seed()` in the worker, or draw from torch's global generator.",
)
EPOCHS_REPEAT = Cause(
    "every epoch begins with the same seed.",
    "Make the epoch part of the seed: `set_epoch`; do not seed workers with a constant.",
)
SWITCH_LOST = Cause(
    "the switch is set in the main process, and running workers hold copies.",
    "Keep the switch in shared memory (`torch.zeros(()).share_memory_()`), or make a new loader.",
)
