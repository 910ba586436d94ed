"""Former place of the coded planes, which `helpers.coded` holds."""

from helpers.coded import coded_planes as coded_pictures
from helpers.coded import expected_labels, pixel_weights

__all__ = ["coded_pictures", "expected_labels", "pixel_weights"]
