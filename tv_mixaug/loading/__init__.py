"""The DataLoader side: collate samples, find the batch index, share memory and settings.

It may import all other stages; only ``tv_mixaug.timm``, ``tv_mixaug.cli`` and users import it.
"""

from tv_mixaug.loading.collate import CollateFn, make_collate_fn

__all__ = ["CollateFn", "make_collate_fn"]
