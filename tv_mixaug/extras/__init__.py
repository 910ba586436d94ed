"""Sample pictures, drawings of batches, and image files.

Only ``tv_mixaug.cli`` imports this folder, and the package itself for ``viz``.
"""
