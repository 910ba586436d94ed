"""The benchmark script runs, and its counts are correct."""

from pathlib import Path

import pytest
import torch
from helpers.scripts import DOCS, load_script, read_csv

for package in ("tqdm", "timm", "kornia", "matplotlib"):
    pytest.importorskip(package, reason="needs the dependency group `bench`")
script = load_script("run")
SHAPE = (8, 100)
BYTES = 8 * 100 * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_collate_benchmark_writes_its_table(tmp_path):
    """A run with tiny sizes writes a table, numbers and a plot."""
    script.main(["collate", "--tiny", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".svg"}
    assert "tv_mixaug" in (tmp_path / "collate.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_trace_counts_every_transform(tmp_path):
    """`trace` runs without a GPU, and no transform moves fewer bytes than its pixels."""
    script.main(["trace", "--tiny", "--draws", "3", "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "trace.csv")
    assert {row["library"] for row in rows} == {"tv_mixaug", "torchvision", "timm"}
    ours = [row for row in rows if row["library"] == "tv_mixaug"]
    assert len(ours) == 3 * 15
    for row in ours:
        assert float(row["moved"]) > float(row["limit"]), row
        assert float(row["launches"]) <= float(row["most_launches"]), row


@pytest.mark.filterwarnings("ignore")
def test_small_compares_each_call_with_another_library(tmp_path, monkeypatch):
    """Each row names another library and has both times."""
    monkeypatch.setattr(script, "keep_memory", lambda: None)  # it affects the process
    script.main(["small", "--tiny", "--rounds", "2", "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "small.csv")
    assert {row["work"] for row in rows} == {"Mixup", "CutMix"}
    for row in rows:
        assert row["library"] in ("torchvision", "timm"), row
        assert min(float(row[key]) for key in ("us", "other_us", "ratio")) > 0, row


@pytest.mark.slow
def test_a_compiled_transform_writes_images_once():
    """The default backend fuses sampling and mixing, so that one kernel writes the images."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    for work in ("Mixup", "CutMix"):
        sizes = script.written_by_kernels(script.ours(work, mode="sample"), images, labels)
        assert sum(max(written) >= images.numel() for written in sizes) == 1, work
    twice = script.written_by_kernels(lambda x, y: x.cumsum(0) / x.sum(), images, labels)
    assert len(twice) > 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_needs_a_device(tmp_path):
    """Without a CUDA device `gpu` exits with a message and writes nothing."""
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        script.main(["gpu", "--tiny", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def on_device(*shape, dtype=torch.float32):
    return torch.empty(shape or SHAPE, dtype=dtype, device="meta")


def index(*shape):
    return on_device(*shape, dtype=torch.int64)


# (what, function of two tensors on the device, launches, copies, bytes)
KNOWN = [
    ("new result", lambda x, y: torch.lerp(x, y, 0.3), 1, 0, 3 * BYTES),
    ("out=", lambda x, y: torch.lerp(x, y, 0.3, out=on_device()), 1, 0, 3 * BYTES),
    ("in place", lambda x, y: x.mul_(2), 1, 0, 2 * BYTES),
    ("adding in place", lambda x, y: x.add_(y), 1, 0, 3 * BYTES),
    ("copy", lambda x, y: x.copy_(y), 1, 0, 2 * BYTES),
    ("fill", lambda x, y: x[0].fill_(2), 1, 0, BYTES // 8),
    ("expanded source", lambda x, y: x.copy_(on_device(1, 100)), 1, 0, BYTES + 400),
    ("broadcast mask", lambda x, y: torch.where(index(8, 1) > 0, x, y), 2, 0, 3 * BYTES + 80),
    ("index_select", lambda x, y: x.index_select(0, index(2)), 1, 0, 1616),
    ("indexing", lambda x, y: x[index(2)], 1, 0, 1616),
    ("scatter", lambda x, y: x.scatter_(1, index(8, 1), 1.0), 1, 0, 64 + 32),
    ("index_put", lambda x, y: x.index_put_((index(2),), y[0]), 1, 0, 16 + 400 + 800),
    ("index_add", lambda x, y: x.index_add_(0, index(2), y[:2]), 1, 0, 2416),
    ("zeros_like", lambda x, y: torch.zeros_like(x), 1, 0, BYTES),
    ("views", lambda x, y: x.view(-1)[3:].expand(2, -1).split(1), 0, 0, 0),
    ("empty operands", lambda x, y: x[:0].copy_(y[:0]), 0, 0, 0),
    ("empty_like", lambda x, y: torch.empty_like(x), 0, 0, 0),
    ("host operations", lambda x, y: torch.ones(5) * 2, 0, 0, 0),
    ("to() from the host", lambda x, y: torch.ones(10).to("meta"), 0, 1, 40),
    ("copy_() from the host", lambda x, y: x.copy_(torch.ones(SHAPE)), 0, 1, BYTES),
    ("copy_() into a part", lambda x, y: x[:, :1].copy_(torch.ones(8, 1)), 1, 1, 96),
    ("index on the host", lambda x, y: x[torch.tensor([1, 2])], 1, 1, 1600 + 32),
    ("number on the host", lambda x, y: x * torch.tensor(2.0), 1, 0, 2 * BYTES),
    ("torch.tensor", lambda x, y: torch.tensor([1.0, 2.0], device="meta"), 0, 1, 8),
    ("full", lambda x, y: torch.full((2,), 1.0, device="meta"), 1, 0, 8),
    ("foreach, contiguous", lambda x, y: torch._foreach_mul_([x, y], 2), 1, 0, 4 * BYTES),
    ("foreach, strided", lambda x, y: torch._foreach_mul_([x[:, :1], y[:, :1]], 2), 2, 0, 4 * 32),
]


@pytest.mark.parametrize(
    ("function", "launches", "copies", "moved"),
    [pytest.param(*row, id=name) for name, *row in KNOWN],
)
def test_trace_counts_operations(function, launches, copies, moved):
    """Launches, copies and bytes of single operations equal a count by hand."""
    with script.Trace() as counter:
        function(on_device(), on_device())
    assert (counter.launches, counter.copies, counter.moved) == (launches, copies, moved)


def test_lines_are_counted():
    """Docstrings, comments and blank lines are not code; a string of several lines is."""
    text = (
        '"""Two\nlines."""\n\n# why\nX = """a\nb"""\n\n\ndef f():\n    """One."""\n    return X\n'
    )
    assert script.count_lines(text) == (11, 4)


def test_every_file_is_counted_once():
    """The totals of the package, the kit and the tests are those of their files."""
    root = Path(script.tv_mixaug.__file__).parent
    kit = set((root / "testing").rglob("*.py"))
    parts = (set(root.rglob("*.py")) - kit, kit, (DOCS.parent / "tests").rglob("*.py"))
    found = {}
    for row in script.lines(None):
        found.setdefault(row.case, []).append(row.lines)
    for counts, files in zip(found.values(), parts, strict=True):
        assert counts[-1] == sum(len(file.read_text().splitlines()) for file in files)
        assert sum(counts[:-1]) in (counts[-1], 0)  # the last row is the total
