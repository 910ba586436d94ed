"""The second tutorial finds its data sets, and draws replacements for missing ones."""

import pickle
from pathlib import Path

import pytest
import torch
from helpers.scripts import DOCS, write_fashion_mnist


def find_sets(folder, monkeypatch):
    """Return the data sets that the second tutorial finds in a folder."""
    pytest.importorskip("matplotlib").use("Agg")
    code = (DOCS / "examples" / "8_cutmix_explained.py").read_text("utf-8")
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code[: code.index("first, second =")], namespace)  # noqa: S102  # a page of this project
    namespace["plt"].close("all")
    namespace["limit"] = 6
    return list(namespace["find_sets"]())


def test_missing_sets_are_drawn(tmp_path, monkeypatch):
    """Without data sets, drawn images of ten and of two classes are used."""
    shapes, flowers = find_sets(tmp_path, monkeypatch)
    assert (shapes[0], len(shapes[1])) == ("drawn shapes", 10)
    assert (flowers[0], len(flowers[1])) == ("drawn flowers", 2)
    for _, names, *parts in (shapes, flowers):
        for images, labels in parts:
            assert images.shape[1:] == (3, 32, 32)
            assert images.dtype == torch.uint8
            assert len(images) == len(labels)
            assert 0 <= int(labels.min()) <= int(labels.max()) < len(names)


@pytest.mark.slow
def test_cifar_and_fashion_mnist_are_read(tmp_path, monkeypatch):
    """Both are read in torchvision's layout, CIFAR-10 first, with all pixels in place."""
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    pixels = torch.randint(256, (6, 4, 3, 32, 32), dtype=torch.uint8)
    class_names = [f"class {i}" for i in range(10)]
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {"data": pixels[i].flatten(1).numpy(), "labels": [i, 3, 9, 0]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": class_names}))
    grey = torch.randint(256, (4, 28, 28), dtype=torch.uint8)
    for part in ("train", "t10k"):
        write_fashion_mnist(tmp_path / "data", part, grey, [3, 1, 4, 1])

    (name, names, (images, labels), test), fashion, *drawn = find_sets(tmp_path, monkeypatch)
    assert len(drawn) == 2
    assert (name, names, len(test[0])) == ("CIFAR10", class_names, 4)
    assert torch.equal(images, pixels[:2].flatten(0, 1)[:6])  # 6 is the limit
    assert labels.tolist() == [0, 3, 9, 0, 1, 3]

    name, names, (images, labels), _ = fashion
    assert (name, len(names), labels.tolist()) == ("FashionMNIST", 10, [3, 1, 4, 1])
    assert torch.equal(images[:, :, 2:30, 2:30], grey[:, None].expand(-1, 3, -1, -1))
    assert int(images[:, :, :2].max()) == 0
