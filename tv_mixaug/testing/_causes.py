"""Probable causes of failures and their remedies, as in the table of ``docs/guide/truth.md``."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """Probable cause of a failure. The text may contain format fields."""

    text: str
    remedy: str

    def of(self, **values: object) -> Cause:
        """Return the cause with the fields of its text filled in."""
        return self._replace(text=self.text.format(**values))


# With two lines per cause this reads as a table.
# fmt: off
UNREPEATABLE = Cause("the pipeline has a source of randomness besides torch, numpy and random.",
    "Use one of their global generators, or seed its own generator from them in each call.")
NOT_FINITE = Cause("the label contains NaN or infinity.",
    "Look for a lam that is divided by an empty box, or for labels of a narrow dtype.")
ROUNDED = Cause("class numbers were rounded: {dtype} cannot represent all of them.",
    "Do not cast labels to the dtype of the images; keep integers, or float32.")
SMOOTHED = Cause("labels are not smoothed as stated; pass `label_smoothing=`.",
    "State the smoothing of the pipeline: `label_smoothing=`, or `--label-smoothing`.")
BLACK = Cause("the images are black: values in [0, 1] were truncated to integers.",
    "Use uint8 inputs (`dtypes=(torch.uint8,)`, or `--dtype uint8`), or do not cast to uint8.")
RESCALED = Cause("the images were normalised or rescaled; pass `mean=` and `std=`.",
    "State the normalisation of the pipeline: `mean=` and `std=`, or `--mean` and `--std`.")
FOREIGN = Cause("pixels were erased (`erased=`), normalised (`mean=`, `std=`) or cast to integers.",
    "State the value of erased pixels, `erased=` or `--erased`, or look for a cast of the images.")
WRONG_SUM = Cause("the label's weights sum to {total:.4g}.",
    "Divide the weights by their sum.")
STILL_COUNTED = Cause("the label still counts pixels that were erased.",
    "Erase before mixing, or use `Chain`, which counts the visible pixels at the end.")
SWAPPED = Cause("the weights are swapped: lam was given to the partner.",
    "Weight the original's label by lam and the partner's by 1 - lam.")
LABELS_NOT_MIXED = Cause("the images were mixed but the labels were not.",
    "Return (B, K) label weights, or pairs with lam, and train on those.")
PARTNER_ALONE = Cause("the images were mixed, and the label is the partner's alone.",
    "Mix labels by lam; do not apply a function that pastes boxes into images to labels.")
LAM_TRUNCATED = Cause("truncated integers: lam was cast to the images' integer type.",
    "Keep lam in float32, and mix before the images become uint8 or after they are floats.")
IMAGES_NOT_MIXED = Cause("the labels were mixed but the images were not.",
    "Check which tensor is taken for the images: by position, by key or by tv_tensor type.")
OTHER_SAMPLES = Cause("labels and images were paired with different samples.",
    "Sample one permutation (or roll by one number) and index images and labels with it.")
COVERED = Cause("a later operation covered part of an earlier mix, and the labels ignore that.",
    "Mix once, or use `Chain`, which counts the visible pixels at the end.")
BLEND_TRUNCATED = Cause("truncated integers: the blend or lam was truncated instead of rounded.",
    "Blend in float32 and round the sum before casting it to uint8.")
OTHER_LAM = Cause("images and labels were blended with different values of lam.",
    "Sample lam once and use it for images and labels; check its shape, (B, 1, 1, 1).")
ONE_LINE = Cause("the area of the {height} × {width} box is off by one {line} of pixels.",
    "Count the area of the half-open box that is sliced: (y2 - y1) * (x2 - x1).")
OTHER_PIXELS = Cause("other pixels were counted than pasted, or a later operation covered some.",
    "Count the area of the box that is pasted, after clipping. Before more steps, use `Chain`.")
NOT_CORRECTED = Cause("the area was not corrected: labels use the sampled lam, not the box's area.",
    "After clipping the box set lam = 1 - area / (H * W), and use that for the labels.")
MASK_NOT_FILLED = Cause("the mask was not filled where the image was erased.",
    "Fill the box of the mask with the class that means unlabelled.")
MASK_LEFT_BEHIND = Cause("the mask was left behind: the image was mixed and the mask was not.",
    "Pass the mask to the transform as a `Mask`; `default_collate` turns masks into plain tensors.")
MASK_ALONE = Cause("the mask was mixed and the image was not.",
    "Check which tensor is taken for the image.")
MASK_OTHER_SAMPLES = Cause("mask and image have different partners, or class ids were blended.",
    "Use one permutation for both, and never average class numbers.")
MASK_ELSEWHERE = Cause("mask and image were mixed at different places, or with different weights.",
    "Sample one box, or one lam, and use it for both.")
MASK_FOREIGN = Cause("{count} pixels have a colour that no mix of the samples gives.",
    "If pixels are erased on purpose, pass `erased=True`.")
BOXES_BEHIND = Cause("boxes do not match the visible pixels of their objects.",
    "Cut, clip and drop boxes with the pixels, and their labels with the boxes.")
INPUTS_CHANGED = Cause("the pipeline writes into its inputs.",
    "Clone before writing: a data set that caches its images would return the changed ones.")
TWO_FORMATS = Cause("the labels of unmixed batches have another format.",
    "Encode the labels of every batch, mixed or not, as (B, K) float32 or as pairs.")
P_IGNORED = Cause("p is ignored: all {what} are mixed.",
    "Decide with probability p whether to mix, before mixing.")
NEVER_MIXED = Cause("no {what} are mixed at all.",
    "Check that p reaches the transform, and that mixing is switched on.")
P_INVERTED = Cause("p is inverted: it is the share that is not mixed.",
    "Mix if a uniform random number is below p.")
P_TWICE = Cause("p was applied twice, to the batch and to the sample: p² = {squared:.3g}.",
    "Apply p once, to the batch or to the sample.")
P_OTHER = Cause("p does not reach the transform, or a second probability reduces it.",
    "Look for a second probability, such as that of a container: the two are multiplied.")
P_UNIT = Cause("samples are chosen within a batch, but p was stated for whole batches.",
    "State it: `per='sample'`, or `--per sample`; or decide once for each batch.")
DRAWN_ONCE = Cause("the same random values are used again in every call.",
    "Sample inside the call and do not seed there; if lam and boxes are fixed, pass `--fixed`.")
SHARED_LAM = Cause("all samples of a batch share one lam.",
    "Sample lam with shape (B,); or state that it is shared: `per='batch'`.")
SHARED_PLACE = Cause("the boxes of a batch differ in size but share one place.",
    "Sample the place with shape (B,), like the size.")
WORKERS_REPEAT = Cause("workers have copies of one random generator and sample the same values.",
    "Seed it with `torch.initial_seed()` in the worker, or use torch's global generator.")
EPOCHS_REPEAT = Cause("every epoch starts with the same seed.",
    "Make the epoch part of the seed: `set_epoch`; do not seed workers with a constant.")
NOT_IN_WORKERS = Cause("batches are mixed in the main process and not in workers.",
    "Look for a state that workers do not have, such as a variable that is set after they start.")
SWITCH_LOST = Cause("the switch is set in the main process, and running workers hold copies.",
    "Keep the switch in shared memory (`torch.zeros(()).share_memory_()`), or make a new loader.")
# fmt: on

VAGUE = (FOREIGN, OTHER_PIXELS)  # reported if no other cause fits
MIXED = (OTHER_LAM, BLEND_TRUNCATED, NOT_CORRECTED, MASK_ELSEWHERE)  # found only in mixes
NOT_MIXED = (IMAGES_NOT_MIXED.remedy, MASK_LEFT_BEHIND.remedy)  # also found in a faint mix
ALIKE = ((NOT_CORRECTED, COVERED),)  # cannot be told apart in large images
