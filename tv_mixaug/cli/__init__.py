"""The command ``tv-mixaug``. Nothing else in the package imports this folder."""
