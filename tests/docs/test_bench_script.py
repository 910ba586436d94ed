"""The speed benchmark runs from end to end; of what it measures only the counting is tested."""

import csv
import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "benchmarks" / "run.py"
SHAPE = (8, 100)
BYTES = 8 * 100 * 4


@pytest.fixture(scope="module")
def script():
    for needed in ("tqdm", "cv2"):
        pytest.importorskip(needed)
    spec = importlib.util.spec_from_file_location("benchmark_run", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_collate_benchmark_writes_its_table(script, tmp_path):
    """Toy sizes and few rounds give a table, numbers and a plot."""
    for needed in ("timm", "kornia", "matplotlib"):
        pytest.importorskip(needed)
    script.main(["collate", "--tiny", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".svg"}
    assert "tv_mixaug" in (tmp_path / "collate.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_trace_counts_every_transform_beside_the_others(script, tmp_path):
    """The part `trace` runs without a GPU, and no transform moves less than its pixels."""
    for needed in ("timm", "kornia"):
        pytest.importorskip(needed)
    script.main(["trace", "--tiny", "--draws", "3", "--out", str(tmp_path)])
    with (tmp_path / "trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["library"] for row in rows} == {"tv_mixaug", "torchvision", "timm"}
    ours = [row for row in rows if row["library"] == "tv_mixaug"]
    assert len(ours) == 3 * 15
    for row in ours:
        assert float(row["moved"]) > float(row["limit"]), row
        assert float(row["launches"]) <= float(row["most_launches"]), row


@pytest.mark.filterwarnings("ignore")
def test_small_sets_each_of_ours_beside_another(script, tmp_path, monkeypatch):
    """Every line names what ours is beside, and times both."""
    for needed in ("timm", "kornia"):
        pytest.importorskip(needed)
    monkeypatch.setattr(script, "keep_memory", lambda: None)  # it would hold for all tests
    script.main(["small", "--tiny", "--rounds", "2", "--out", str(tmp_path)])
    with (tmp_path / "small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["work"] for row in rows} == {"Mixup", "CutMix"}
    for row in rows:
        assert row["library"] in ("torchvision", "timm"), row
        assert min(float(row[key]) for key in ("us", "their_us", "to_theirs")) > 0, row


@pytest.mark.slow
def test_a_compiled_transform_writes_images_once(script):
    """The default backend fuses draws, blend and paste, so that one kernel writes the images."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    for work in ("Mixup", "CutMix"):
        transform = script.ours(work, mode="sample")
        sizes = script.written_by_kernels(transform, images, labels)
        assert sum(max(written) >= images.numel() for written in sizes) == 1, work
    twice = script.written_by_kernels(lambda x, y: x.cumsum(0) / x.sum(), images, labels)
    assert len(twice) > 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_written(script, tmp_path):
    """The part `gpu` ends with one sentence, and leaves no table."""
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        script.main(["gpu", "--tiny", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def on_device(*shape, dtype=torch.float32):
    return torch.empty(shape or SHAPE, dtype=dtype, device="meta")


def index(*shape):
    return on_device(*shape, dtype=torch.int64)


# (what, function of two tensors on the device, launches, copies, bytes)
KNOWN = [
    ("a new result is written", lambda x, y: torch.lerp(x, y, 0.3), 1, 0, 3 * BYTES),
    ("out= is written", lambda x, y: torch.lerp(x, y, 0.3, out=on_device()), 1, 0, 3 * BYTES),
    ("in place reads and writes", lambda x, y: x.mul_(2), 1, 0, 2 * BYTES),
    ("so does adding", lambda x, y: x.add_(y), 1, 0, 3 * BYTES),
    ("copying only writes its target", lambda x, y: x.copy_(y), 1, 0, 2 * BYTES),
    ("filling only writes", lambda x, y: x[0].fill_(2), 1, 0, BYTES // 8),
    ("expanded is read once", lambda x, y: x.copy_(on_device(1, 100)), 1, 0, BYTES + 400),
    ("so is a mask", lambda x, y: torch.where(index(8, 1) > 0, x, y), 2, 0, 3 * BYTES + 80),
    ("a gather reads the rows it takes", lambda x, y: x.index_select(0, index(2)), 1, 0, 1616),
    ("so does indexing", lambda x, y: x[index(2)], 1, 0, 1616),
    ("a scatter writes its places", lambda x, y: x.scatter_(1, index(8, 1), 1.0), 1, 0, 64 + 32),
    ("so does putting", lambda x, y: x.index_put_((index(2),), y[0]), 1, 0, 16 + 400 + 800),
    ("adding there reads them too", lambda x, y: x.index_add_(0, index(2), y[:2]), 1, 0, 2416),
    ("zeros are written", lambda x, y: torch.zeros_like(x), 1, 0, BYTES),
    ("views are nothing", lambda x, y: x.view(-1)[3:].expand(2, -1).split(1), 0, 0, 0),
    ("nor is what has no element", lambda x, y: x[:0].copy_(y[:0]), 0, 0, 0),
    ("nor is memory that is reserved", lambda x, y: torch.empty_like(x), 0, 0, 0),
    ("nor is what the host does", lambda x, y: torch.ones(5) * 2, 0, 0, 0),
    ("to() copies", lambda x, y: torch.ones(10).to("meta"), 0, 1, 40),
    ("copy_() copies", lambda x, y: x.copy_(torch.ones(SHAPE)), 0, 1, BYTES),
    ("into a part by way of a kernel", lambda x, y: x[:, :1].copy_(torch.ones(8, 1)), 1, 1, 96),
    ("an index of the host is copied", lambda x, y: x[torch.tensor([1, 2])], 1, 1, 1600 + 32),
    ("a number of the host is not", lambda x, y: x * torch.tensor(2.0), 1, 0, 2 * BYTES),
    ("what torch.tensor makes is", lambda x, y: torch.tensor([1.0, 2.0], device="meta"), 0, 1, 8),
    ("what full makes is not", lambda x, y: torch.full((2,), 1.0, device="meta"), 1, 0, 8),
    ("many whole ones at once", lambda x, y: torch._foreach_mul_([x, y], 2), 1, 0, 4 * BYTES),
    ("or parts", lambda x, y: torch._foreach_mul_([x[:, :1], y[:, :1]], 2), 2, 0, 4 * 32),
]


@pytest.mark.parametrize(
    ("function", "launches", "copies", "moved"),
    [row[1:] for row in KNOWN],
    ids=[k[0] for k in KNOWN],
)
def test_what_is_known_is_counted_right(script, function, launches, copies, moved):
    """The counter of `trace` agrees with a count by hand of launches, copies and bytes."""
    x, y = on_device(), on_device()
    with script.Trace() as counter:
        function(x, y)
    assert (counter.launches, counter.copies, counter.moved) == (launches, copies, moved)


def test_lines_are_counted_once_each(script):
    """Code, docstrings and the rest of a module add up; a string that spans lines is code."""
    text = (
        '"""Two\nlines."""\n\n# why\nX = """a\nb"""\n\n\ndef f():\n    """One."""\n    return X\n'
    )
    assert script.count_lines(text) == (11, 4, 3, 4)


def test_every_module_is_counted_once(script):
    """The parts have every module of the package but the test kit."""
    (*parts, total) = script.lines(None)
    files = Path(script.transforms.__file__).parent.rglob("*.py")
    expected = sum(len(f.read_text().splitlines()) for f in files if f.parent.name != "testing")
    assert total.lines == sum(part.lines for part in parts) == expected
