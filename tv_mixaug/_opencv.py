"""OpenCV, imported here only, so that its error names both of its packages."""

try:
    import cv2 as cv2  # for other modules
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be imported ({error}). On a machine without a display, replace "
        "opencv-python: pip uninstall opencv-python, then pip install opencv-python-headless; or "
        "install its libraries: apt-get install libgl1 libx11-6 libxcb1 libglib2.0-0."
    ) from error
