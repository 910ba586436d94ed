"""Scripts and reference of the documentation, and data sets in torchvision's layouts."""

import csv
import importlib.util
import os
import pickle
import re
import subprocess
import sys
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


def write_cifar10(folder, batches, class_names):
    """Write batches, a dict from names to (N, 3, 32, 32) images and N labels, as CIFAR-10."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        content = {"data": images.flatten(1).numpy(), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": class_names}))


def build_reference(out):
    """Build the API reference; return signature and text of each entry by its full name."""
    extensions = "extensions=myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon"
    options = ["-q", "-c", DOCS, "-D", extensions, "-D", "suppress_warnings=myst.xref_missing"]
    command = [sys.executable, "-m", "sphinx", *options, DOCS / "api", out]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # noqa: S603
    entries = {}
    for page in out.glob("*.html"):
        parts = re.split(r'<dt class="sig sig-object py" id="([\w.]+)">', page.read_text("utf-8"))
        for name, part in zip(parts[1::2], parts[2::2], strict=True):
            entries[name] = part.partition("</dt>")[::2]
    return entries
