"""Contact sheets, image files and sample pictures; the rest of the package needs none of them."""
