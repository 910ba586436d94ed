"""Reused memory: it is never overwritten while it is in use, and nothing leaks."""

import copy
import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.loading import CLASSES, Pictures, epochs, make, same
from helpers.workers import Around
from torch.utils.data import DataLoader, Dataset

from tv_mixaug import Mixup, make_collate_fn
from tv_mixaug.loading import memory_pool

SIZE = 80  # four pictures have more than memory_pool.WORTHWHILE bytes
COUNT = 48

if not hasattr(os, "memfd_create"):
    pytest.skip("memory is reused on Linux only", allow_module_level=True)
fork = torch.multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def expected():
    """Two epochs without workers, so that no memory is reused."""
    return epochs(make(), 2, Pictures(COUNT, SIZE))


def loader_of(collate_fn=None, **options):
    options = {"batch_size": 4, "num_workers": 1, "persistent_workers": True, **options}
    return DataLoader(Pictures(COUNT, SIZE), collate_fn=collate_fn or make(), **options)


def blocks():
    """Return the blocks that this process holds for its workers."""
    return [block for found in memory_pool._received.values() for block in found.values()]


def is_in_block(images):
    """Whether a batch lies in a block; torch shares the memory of the others."""
    return not images.is_shared()


def bytes_of(value):
    if type(value).__name__ == "PyCapsule":
        value = torch.utils.dlpack.from_dlpack(value)
    if isinstance(value, torch.UntypedStorage):
        value = torch.tensor([], dtype=torch.uint8).set_(value)
    return bytes(memoryview(value.contiguous().numpy() if torch.is_tensor(value) else value))


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_blocks_are_reused(expected, method):
    """A loop that keeps few batches gets the same few blocks, with the right pixels."""
    loader, addresses, kept = loader_of(multiprocessing_context=method), set(), []
    for epoch in range(2):
        loader.collate_fn.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert same(batch, expected[epoch][place])
            assert is_in_block(batch[0])
            addresses.add(batch[0].data_ptr())
            if epoch == 0 and place < 3:
                kept.append(batch)
    assert same(kept, expected[0][:3])
    assert len(addresses) <= 6 + 3 < memory_pool.POOL_BLOCKS < 2 * len(loader)


KEEPERS = {
    "slice": lambda images: images[3, :, 2:],
    "array": lambda images: images.numpy()[1:],
    "transposed": lambda images: images.permute(0, 2, 3, 1),
    "detached": lambda images: images.detach().unbind(0)[2],
    "bytes": lambda images: images.view(torch.uint8)[0, 0],
    "tensor from an array": lambda images: torch.from_numpy(images.numpy()[2:, :1]),
    "memoryview": lambda images: memoryview(images.numpy()),
    "DLPack": lambda images: torch.utils.dlpack.from_dlpack(images)[1],
    "storage": lambda images: images.untyped_storage(),
    "strided": lambda images: images.as_strided((5,), (7,), 100),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_views_that_are_kept_are_not_overwritten(expected, name):
    """A view of any kind protects its batch, although the batch itself is dropped."""
    keep = KEEPERS[name]
    kept = [keep(batch[0]) for batch in loader_of()]
    for one, batch in zip(kept, expected[0], strict=True):
        assert bytes_of(one) == bytes_of(keep(batch[0].clone()))


def queue_up(images):
    queue = fork.SimpleQueue()
    queue.put(images)
    return queue.get()


@pytest.mark.parametrize(
    "move", [torch.Tensor.share_memory_, queue_up, lambda images: queue_up(images[1:])]
)
@pytest.mark.parametrize("keep", [torch.Tensor.numpy, torch.utils.dlpack.to_dlpack])
def test_what_lies_in_a_block_stays_when_torch_moves_the_pixels(expected, move, keep):
    """An array of a batch that the user shares or queues is neither overwritten nor unmapped."""
    loader, kept = loader_of(), []
    for images, *_ in loader:
        kept.append(keep(images))
        move(images)
    del loader, images
    gc.collect()
    for one, batch in zip(kept, expected[0], strict=True):
        assert bytes_of(one) == bytes_of(batch[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_breaks_and_errors_in_the_loop(expected, persistent):
    """Leaving an epoch early, by break or by an error, harms neither kept nor later batches."""
    loader, kept = loader_of(num_workers=2, persistent_workers=persistent), []

    def run(stop, error=None):
        loader.collate_fn.set_epoch(0)
        for place, batch in enumerate(loader):
            kept.append((batch[0][1:], expected[0][place][0][1:]))
            if place == stop:
                if error:
                    raise error
                break

    for stop in (0, 3, 5):
        run(stop)
        with pytest.raises(RuntimeError, match="mine"):
            run(stop, RuntimeError("mine"))
    loader.collate_fn.set_epoch(1)
    assert same(list(loader), expected[1])
    assert all(same(*pair) for pair in kept)


def test_errors_in_a_worker_do_not_use_up_blocks():
    """Batches that the transform refuses leave their blocks for the next ones."""
    samples = [(one, 99 if n % 8 == 3 else label, n) for one, label, n in Pictures(160, SIZE)]
    iterator = iter(DataLoader(samples, 4, collate_fn=make(), num_workers=1))
    addresses = set()
    for place in range(40):
        if place % 2 == 0:
            with pytest.raises(ValueError, match="got 99"):
                next(iterator)
        else:
            addresses.add(next(iterator)[0].data_ptr())
    assert len(addresses) <= memory_pool.POOL_BLOCKS


def kill_a_worker(expected, answers):
    """Kill a worker in mid-epoch; answer with the loader's error and whether batches are right."""
    kept, said = [], ""
    iterator = iter(loader_of(num_workers=2, timeout=60))
    try:
        for batch in iterator:
            kept.append(batch)
            if len(kept) == 3:
                os.kill(iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(0.02 if len(kept) < 3 else 0.2)
    except (RuntimeError, ConnectionError, EOFError) as error:
        said = f"{type(error).__name__}: {error}"
    del iterator
    answers.put((said, same(kept, expected[: len(kept)]), same(list(loader_of()), expected)))


def test_a_killed_worker_harms_no_batch(expected):
    """After kill -9 of a worker the loader raises, kept batches stay, and a new epoch runs."""
    # In a process of its own, since torch's signal handler raises wherever the main process is.
    answers = fork.SimpleQueue()
    process = fork.Process(target=kill_a_worker, args=(expected[0], answers))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    said, is_kept, is_next = answers.get()
    # torch reports a connection that the worker closed before it notices that the worker ended.
    assert "DataLoader worker (pid" in said or said.startswith(("Connection", "EOFError"))
    assert is_kept
    assert is_next


@pytest.mark.parametrize("persistent", [False, True])
def test_blocks_are_dropped_with_the_workers(persistent):
    """When the loader is gone, or its epoch without persistent workers, so are its blocks."""
    before, loader = blocks(), loader_of(persistent_workers=persistent)  # of earlier loaders

    def made():
        return [block for block in blocks() if all(block is not one for one in before)]

    kept = [batch[0] for batch in loader]
    values = [images.clone() for images in kept]
    assert bool(made()) == persistent
    loader.collate_fn.set_epoch(1)
    iterator = iter(loader)
    next(iterator)
    assert made()
    del loader, iterator
    gc.collect()
    assert not made()
    assert same(kept, values)


def own_collate(samples):
    return torch.stack([sample[0] for sample in samples]), torch.tensor([s[1] for s in samples])


@pytest.mark.parametrize(
    ("options", "reused"),
    [({}, True), ({"reuse_memory": False}, False), ({"collate_fn": own_collate}, False)],
    ids=["default", "off", "own collate_fn"],
)
def test_memory_is_reused_only_by_the_default_collating(options, reused):
    """Blocks serve the default collating; otherwise no block is made."""
    before = len(blocks())
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES, passthrough=(2,)), **options)
    for images, *_ in loader_of(collate_fn):
        assert is_in_block(images) == reused
        assert (len(blocks()) > before) == reused


def refuse(*_):
    raise OSError("Too many open files")


@pytest.mark.parametrize("missing", ["free files", "anonymous files"])
def test_without_blocks_batches_lie_in_fresh_memory(expected, monkeypatch, missing):
    """If the system has no memory for blocks, nothing fails."""
    if missing == "free files":
        monkeypatch.setattr(os, "memfd_create", refuse)
    else:
        monkeypatch.delattr(os, "memfd_create")
    found = list(loader_of(multiprocessing_context="fork"))
    assert same(found, expected[0])
    assert not any(is_in_block(batch[0]) for batch in found)


class Changing(Dataset):
    """Pictures whose side changes, with the same number of pairs for each side."""

    def __init__(self, pairs, *sides):
        self.pairs, self.sides = pairs, sides

    def __len__(self):
        return 2 * self.pairs * len(self.sides)

    def __getitem__(self, index):
        side = self.sides[index // (2 * self.pairs)]
        return torch.full((3, side, side), float(index)), index % CLASSES


def pairs_of(data):
    """Return a loader of unmixed pairs."""
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES), p=0.0)
    return DataLoader(data, 2, collate_fn=collate_fn, num_workers=1)


def test_a_full_pool_replaces_blocks_that_are_kept():
    """After more batches were kept than there are blocks, larger batches lie in blocks again."""
    kept = []
    for place, (images, _) in enumerate(pairs_of(Changing(memory_pool.PATIENCE + 8, 80, 160))):
        if place < memory_pool.POOL_BLOCKS + 4:
            kept.append(images)
    assert is_in_block(images)
    assert len(blocks()) <= memory_pool.POOL_BLOCKS
    for place, images in enumerate(kept):
        assert images.amin() == 2 * place
        assert images.amax() == 2 * place + 1


@pytest.mark.parametrize("sides", [range(80, 320, 20), range(320, 80, -20)])
def test_blocks_follow_the_size_of_the_batches(sides):
    """Blocks that have become too small, or far too large, are replaced."""
    for images, _ in pairs_of(Changing(12, *sides)):
        assert is_in_block(images)
        assert len(blocks()) <= memory_pool.POOL_BLOCKS
    assert len(images.untyped_storage().block.memory) <= 2 * images.nbytes + 2


def test_functions_that_are_remade_in_a_worker_share_its_blocks():
    """A worker that makes the function again for each batch needs no more blocks."""
    before = len(blocks())
    loader = loader_of(lambda samples: make()(samples), multiprocessing_context="fork")
    for _ in range(3):
        for _ in loader:
            assert len(blocks()) - before <= 6


def around_images(collate_fn, change, before=()):
    """Change the images in the worker before they are sent, with what it has kept before."""
    before = list(before)
    return Around(collate_fn, lambda batch: change(batch[0], before))


def with_the_batch_before(images, before):
    last = before.pop() if before else images[:0]
    before.append(images)
    return images, last


def with_an_array_of_the_batch_before(images, before):
    last = before.pop() if before else images[:0].numpy()
    before.append(images.numpy())
    return images, torch.from_numpy(last)[:, 1]


def moved_below_arrays(images, before):
    before.append(images.numpy())
    images.share_memory_()
    return images, torch.tensor([float(array.sum()) for array in before])


def queued_elsewhere(images, before):
    before[:] = before or [fork.SimpleQueue()]
    before[0].put(images)  # at once, in this thread
    return (images,)


def with_other_data(images, before):
    images.data = images.data[1:3]
    return (images,)


CHANGES = {
    "only a view": lambda images, _: (images[2:],),
    "the batch before": with_the_batch_before,
    "a view of it": lambda images, _: (images, with_the_batch_before(images, _)[1][1:]),
    "an array of the batch before": with_an_array_of_the_batch_before,
    "changed in place": lambda images, _: (images.mul_(2),),
    "changed": lambda images, _: (images - 1, images.amax()),
    "flattened": lambda images, _: (images.resize_(4, 3 * SIZE * SIZE),),
    "shared": lambda images, _: (images.share_memory_().add_(1),),
    "copied": lambda images, _: (copy.deepcopy(images), copy.copy(images)),
    "moved below arrays": moved_below_arrays,
    "queued elsewhere": queued_elsewhere,
    "pickled": lambda images, _: (pickle.loads(pickle.dumps(images)), images),  # noqa: S301
    "with other data": with_other_data,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_function_around_the_collate_function_sees_no_difference(name):
    """Whatever a wrapper sends of the batch arrives as without reuse_memory, and stays."""
    found = []
    for reuse in (False, True):
        around = around_images(make(reuse_memory=reuse), CHANGES[name])
        loader, now, kept = loader_of(around, multiprocessing_context="fork"), [], []
        for round_ in range(2):
            around.collate_fn.set_epoch(0)
            for place, batch in enumerate(loader):
                now.append([copy.deepcopy(part) for part in batch])
                if place % 3 == round_:
                    kept.append((len(now) - 1, batch[-1]))
                del batch
        for place, part in kept:
            assert same(part, now[place][-1])
        found.append(now)
    assert same(*found)


def total(images):
    return float(images.numpy().sum(dtype="float64"))


def keep_half(queue, answers, count):
    """Drop every other batch, keep the others to the end, and answer with the sums of all."""
    found = []
    for place in range(count):
        images = queue.get()
        found.append(images if place % 2 else total(images))
        del images
    answers.put([one if isinstance(one, float) else total(one) for one in found])


@pytest.mark.parametrize("sender", ["worker", "main process"])
def test_a_third_process_keeps_what_it_is_sent(expected, sender):
    """Batches that the worker or the main process sends to a third process stay there."""
    queue, answers, count = fork.SimpleQueue(), fork.SimpleQueue(), len(expected[0])
    third = fork.Process(target=keep_half, args=(queue, answers, count), daemon=True)
    third.start()
    around = around_images(make(), queued_elsewhere, [queue])
    collate_fn = around if sender == "worker" else make()
    for batch in loader_of(collate_fn, multiprocessing_context="fork"):
        if sender == "main process":
            queue.put(batch[0])
    assert answers.get() == [total(batch[0]) for batch in expected[0]]
    third.join()


def fork_and(function):
    """Run a function in a forked child, and return a function that waits for its answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"%d" % function())
        finally:
            os._exit(0)
    os.close(writing)

    def answer():
        with os.fdopen(reading, "rb") as pipe:
            found = pipe.read()
        os.waitpid(child, 0)
        return found

    return answer


def test_a_forked_child_that_drops_a_batch_frees_nothing(expected):
    """The end of a batch in a child does not free the batch of its parent."""
    kept = []

    def drop():
        kept.clear()
        gc.collect()
        return 1

    for place, batch in enumerate(loader_of()):
        kept.append(batch)
        del batch
        assert place != 2 or fork_and(drop)() == b"1"
    assert same(kept, expected[0])


def test_a_forked_child_may_go_on_reading(expected):
    """A batch that a forked child still reads is not overwritten when the parent drops it."""
    wanted = expected[0][0][0].numpy().tobytes()
    iterator = iter(loader_of())
    held = [next(iterator)[0].numpy()]  # not a tensor: torch's threads do not survive a fork
    go, gone = os.pipe()
    answer = fork_and(lambda: os.read(go, 1) and held[0].tobytes() == wanted)
    held.clear()
    for place, later in enumerate(iterator, start=1):
        assert same(later, expected[0][place])
    os.write(gone, b"1")
    assert answer() == b"1"
    os.close(go)
    os.close(gone)


SMALL_SHM = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && "$0" "$@"']


@linux
@pytest.mark.slow
def test_a_short_soak_with_little_shared_memory():
    """Batches kept in every way stay, where possible with a /dev/shm of 64 MB."""
    script = Path(__file__).parents[2] / "docs" / "benchmarks" / "soak_reuse_memory.py"
    soak = [sys.executable, script, "--batches", "100", "--kept", "24", "--rounds", "1"]
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    options["env"] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    may_mount = shutil.which("unshare") and not subprocess.run([*SMALL_SHM, "true"]).returncode  # noqa: S603
    found = subprocess.run([*SMALL_SHM, *soak] if may_mount else soak, **options)  # noqa: S603
    assert found.returncode == 0, found.stdout + found.stderr
    assert ("/dev/shm of 64 MB" in found.stdout) == bool(may_mount)  # noqa: S108
    assert found.stdout.count("ok    ") >= 6
