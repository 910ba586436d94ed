"""Scripts of the documentation, and data sets in torchvision's layouts."""

import csv
import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def load_script(name):
    """Import a script of the folder docs/benchmarks."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_csv(path):
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_fashion_mnist(folder, part, images, labels):
    """Write (N, 28, 28) images and N labels in the format of Fashion-MNIST."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    count = len(labels).to_bytes(4, "big")
    head = bytes([0, 0, 8, 3]) + count + 2 * bytes([0, 0, 0, 28])
    (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.numpy().tobytes())
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + count + bytes(labels))
