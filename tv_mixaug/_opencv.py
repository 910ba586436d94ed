"""OpenCV, imported here only, so that its error names both of its packages."""

try:
    import cv2
except ImportError as error:
    text = (
        f"OpenCV cannot be imported ({error}). On a machine without a display, replace "
        "opencv-python: pip uninstall opencv-python, then pip install opencv-python-headless; or "
        "install its libraries: apt-get install libgl1 libx11-6 libxcb1 libglib2.0-0."
    )
    raise ImportError(text) from error

__all__ = ["cv2"]
