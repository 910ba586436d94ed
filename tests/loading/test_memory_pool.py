"""Try to break the memory that workers use again: nothing in use is overwritten, nothing leaks."""

import copy
import gc
import multiprocessing.queues
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
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.loading import memory_pool as memory

fork = torch.multiprocessing.get_context("fork")

SIZE = 80  # four pictures take more than memory.WORTHWHILE
COUNT = 48


@pytest.fixture(scope="module")
def expected():
    """Two epochs without workers, and so without any memory that is used again."""
    return epochs(make(), 2, Pictures(COUNT, SIZE))


def loader_of(collate_fn, **options):
    options = {"batch_size": 4, "num_workers": 2, "persistent_workers": True, **options}
    return DataLoader(Pictures(COUNT, SIZE), collate_fn=collate_fn, **options)


def open_things():
    """Count open files, segments of shared memory and blocks held."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    return files, len(os.listdir("/dev/shm")), blocks_received()  # noqa: S108


def blocks_received():
    """Count the blocks that this process holds for its workers."""
    return sum(map(len, memory._received.values()))


def is_lent(images):
    """Tell whether a batch lies in a block; what is sent in fresh memory is shared."""
    return not images.is_shared()


def resident():
    """Return the resident memory of this process in bytes, shared pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")


def test_blocks_are_used_again(expected):
    """A loop that drops its batches gets the same few blocks, with the right pixels."""
    loader, addresses = loader_of(make(reuse_memory=True), num_workers=1), set()
    for epoch in range(2):
        loader.collate_fn.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert same(batch, expected[epoch][place])
            assert is_lent(batch[0])
            addresses.add(batch[0].data_ptr())
    assert len(addresses) <= 6 < memory.POOL_BLOCKS < 2 * len(loader)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_that_are_kept_are_not_overwritten(expected, workers, persistent):
    """All batches of two epochs, kept in a list, stay what they were."""
    options = {"num_workers": workers, "persistent_workers": persistent}
    found = epochs(make(reuse_memory=True), 2, Pictures(COUNT, SIZE), **options)
    assert same(found, expected)


KEEPERS = {
    "slice": lambda images: images[3, :, 2:],
    "numpy": lambda images: images.numpy()[1:],
    "transposed": lambda images: images.permute(0, 2, 3, 1),
    "detached": lambda images: images.detach().unbind(0)[2],
    "bytes": lambda images: images.view(torch.uint8)[0, 0],
    "from numpy": lambda images: torch.from_numpy(images.numpy()[2:, :1]),
    "memoryview": lambda images: memoryview(images.numpy()),
    "dlpack": lambda images: torch.utils.dlpack.from_dlpack(images)[1],
    "storage": lambda images: images.untyped_storage(),
    "half a year later": lambda images: images.as_strided((5,), (7,), 100),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_views_that_are_kept_are_not_overwritten(expected, name):
    """A view of any kind protects the batch below it, though the batch itself is gone."""
    keep = KEEPERS[name]
    loader = loader_of(make(reuse_memory=True), num_workers=1)
    kept = [keep(batch[0]) for batch in loader]
    wanted = [keep(batch[0].clone()) for batch in expected[0]]
    for one, other in zip(kept, wanted, strict=True):
        assert bytes(memoryview_of(one)) == bytes(memoryview_of(other))


def memoryview_of(value):
    if isinstance(value, torch.UntypedStorage):
        value = torch.tensor([], dtype=torch.uint8).set_(value)
    return value.contiguous().numpy() if isinstance(value, torch.Tensor) else value


def test_every_other_batch_kept(expected):
    """Blocks that are kept and blocks that come back live side by side over many epochs."""
    collate_fn = make(reuse_memory=True)
    loader, kept = loader_of(collate_fn), {}
    for round_ in range(6):
        epoch = round_ % 2
        collate_fn.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert same(batch, expected[epoch][place])
            if (place + round_) % 5 == 0:
                kept[epoch, place] = batch
    assert len(kept) > 8
    assert all(same(batch, expected[epoch][place]) for (epoch, place), batch in kept.items())


@pytest.mark.parametrize("persistent", [False, True])
def test_breaks_and_errors_in_the_loop(expected, persistent):
    """Leaving an epoch early, by break or by an error, harms neither kept nor later batches."""
    collate_fn = make(reuse_memory=True)
    loader, kept = loader_of(collate_fn, persistent_workers=persistent), []
    for stop in (0, 3, 5):
        collate_fn.set_epoch(0)
        for place, batch in enumerate(loader):
            kept.append((place, batch))
            if place == stop:
                break
        collate_fn.set_epoch(0)
        with pytest.raises(RuntimeError, match="mine"):  # noqa: PT012  # the loop must raise
            for place, batch in enumerate(loader):
                kept.append((place, batch[0][1:]))
                if place == stop:
                    raise RuntimeError("mine")
    collate_fn.set_epoch(1)
    assert same(list(loader), expected[1])
    for place, batch in kept:
        whole = expected[0][place]
        assert same(batch, whole[0][1:] if isinstance(batch, torch.Tensor) else whole)


class Failing(Pictures):
    """Raises in the worker at some samples, after others of the batch were read."""

    def __getitem__(self, index):
        image, label, number = super().__getitem__(index)
        return image, 99 if index % 8 == 3 else label, number


def test_errors_in_a_worker_do_not_use_up_blocks():
    """Batches that the transform refuses leave their block for the next ones."""
    collate_fn = make(reuse_memory=True)
    loader = DataLoader(Failing(160, SIZE), 4, collate_fn=collate_fn, num_workers=1)
    iterator, errors, addresses = iter(loader), 0, set()
    while True:
        try:
            addresses.add(next(iterator)[0].data_ptr())
        except ValueError:
            errors += 1
        except StopIteration:
            break
    assert errors == 20
    assert len(addresses) <= memory.POOL_BLOCKS


def run(*command):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(  # noqa: S603  # our own scripts
        command, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def kill_a_worker(expected, answers):
    """Kill a worker in the middle of an epoch, and tell what the loader said and what is left."""
    collate_fn, kept, said = make(reuse_memory=True), [], ""
    iterator = iter(loader_of(collate_fn, timeout=60))
    try:
        for batch in iterator:
            kept.append(batch)
            if len(kept) == 3:
                os.kill(iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(0.02 if len(kept) < 3 else 0.2)
    except RuntimeError as error:
        said = str(error)
    del iterator
    answers.put((said, same(kept, expected[: len(kept)])))
    answers.put(same(list(loader_of(collate_fn)), expected))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_killed_worker_harms_no_batch(expected):
    """After kill -9 of a worker the loader says so, kept batches stay, and a new epoch runs."""
    # In a process of its own: torch's signal handler raises wherever the main process is.
    answers = fork.SimpleQueue()
    process = fork.Process(target=kill_a_worker, args=(expected[0], answers))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    said, is_kept = answers.get()
    assert "DataLoader worker (pid" in said
    assert is_kept
    assert answers.get()


@pytest.mark.slow
def test_workers_that_are_not_forked_use_blocks_again(expected):
    """Workers that get everything pickled lend memory like forked ones, and what is kept stays."""
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    loader = loader_of(make(reuse_memory=True), **options)
    kept, addresses = [], set()
    for epoch in range(2):
        loader.collate_fn.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert same(batch, expected[epoch][place])
            addresses.add(batch[0].data_ptr())
            if epoch == 0 and place < 3:
                kept.append(batch)
    assert same(kept, expected[0][:3])
    assert len(addresses) <= memory.POOL_BLOCKS + 1


def test_two_loaders_with_one_collate_function(expected):
    """Two interleaved loaders with one object and a third with a copy do not meet."""
    collate_fn = make(reuse_memory=True)
    functions = [collate_fn, collate_fn, copy.deepcopy(collate_fn)]
    loaders = [loader_of(function) for function in functions]
    together = zip(*loaders, strict=True)
    kept = [tuple(batch[0][1:] for batch in batches) for batches in together]
    for place, views in enumerate(kept):
        assert all(torch.equal(view, expected[0][place][0][1:]) for view in views)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_blocks_go_with_the_loader(persistent):
    """When the loader is gone, so are the blocks, but not a kept batch."""
    before = set(memory._received)
    collate_fn = make(reuse_memory=True)
    loader = loader_of(collate_fn, persistent_workers=persistent)
    iterator = iter(loader)
    kept = next(iterator)[0]
    value = kept.clone()
    assert set(memory._received) > before
    del loader, iterator
    gc.collect()
    assert set(memory._received) <= before
    assert torch.equal(kept, value)


def test_blocks_of_a_loop_that_has_ended_are_let_go():
    """Without persistent workers the blocks end with the epoch, though the function goes on."""
    before = blocks_received()
    loader = loader_of(make(reuse_memory=True), persistent_workers=False)
    for batch in loader:
        assert blocks_received() > before
        assert is_lent(batch[0])
    assert blocks_received() == before


# --- On, off, and what the system refuses --------------------------------------------------------


def own_collate(samples):
    """Collate as a user would."""
    return torch.stack([sample[0] for sample in samples]), torch.tensor([s[1] for s in samples])


@pytest.mark.parametrize(
    ("options", "lent"),
    [({}, True), ({"reuse_memory": False}, False), ({"collate_fn": own_collate}, False)],
    ids=["default", "off", "own collate_fn"],
)
def test_memory_is_used_again_where_it_is_safe(options, lent):
    """Out of the box blocks are lent for the default collating; else nothing is opened."""
    before = set(memory._received)
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES, passthrough=(2,)), **options)
    for images, *_ in loader_of(collate_fn, num_workers=1):
        assert is_lent(images) == lent
        assert (set(memory._received) > before) == lent


def refuse(*_):
    raise OSError("Too many open files")


@pytest.mark.parametrize("has_files", [True, False])
def test_without_blocks_batches_come_in_fresh_memory(expected, monkeypatch, has_files):
    """Where the system has or gives no memory for a block, a batch is sent as by default."""
    if has_files:
        monkeypatch.setattr(os, "memfd_create", refuse)
    else:
        monkeypatch.delattr(os, "memfd_create")
    found = list(loader_of(make(reuse_memory=True), num_workers=1))
    assert same(found, expected[0])
    assert not any(is_lent(batch[0]) for batch in found)


def only_for_python(queue):
    """Hide a queue's thread from all but its own module, as if Python had renamed it."""
    if sys._getframe(1).f_globals["__name__"] != "multiprocessing.queues":
        raise AttributeError("_thread")
    return queue.__dict__["_thread"]


def test_without_the_thread_of_a_queue_batches_come_in_fresh_memory(expected, monkeypatch):
    """Should Python rename what tells who sends a batch, nothing is lent, and nothing fails."""
    hidden = property(only_for_python, lambda queue, thread: vars(queue).update(_thread=thread))
    monkeypatch.setattr(multiprocessing.queues.Queue, "_thread", hidden, raising=False)
    options = {"num_workers": 1, "multiprocessing_context": "fork"}
    found = list(loader_of(make(reuse_memory=True), **options))
    assert same(found, expected[0])
    assert not any(is_lent(batch[0]) for batch in found)


class Changing(Dataset):
    """Pictures whose side changes, with the same number of pairs for each side."""

    def __init__(self, pairs, *sides):
        self.pairs, self.sides = pairs, sides

    def __len__(self):
        return 2 * self.pairs * len(self.sides)

    def __getitem__(self, index):
        side = self.sides[index // (2 * self.pairs)]
        return torch.full((3, side, side), float(index)), index % CLASSES


def test_small_blocks_that_are_kept_do_not_end_the_gain():
    """After more small batches were kept than there are blocks, larger ones are lent again."""
    data = Changing(memory.PATIENCE + 8, 80, 160)
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES), p=0.0, reuse_memory=True)
    kept = []
    for place, (images, _) in enumerate(DataLoader(data, 2, collate_fn=collate_fn, num_workers=1)):
        if place < memory.POOL_BLOCKS + 4:
            kept.append(images)
    assert is_lent(images)
    assert blocks_received() <= memory.POOL_BLOCKS
    for place, images in enumerate(kept):
        assert images.amin() == 2 * place
        assert images.amax() == 2 * place + 1


@pytest.mark.parametrize("sides", [range(80, 320, 20), range(320, 80, -20)])
def test_blocks_follow_the_size_of_the_batches(sides):
    """Blocks that have become too small, or far too large, are replaced: few for each size."""
    data = Changing(12, *sides)
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES), p=0.0, reuse_memory=True)
    lent = sizes = 0
    for images, _ in DataLoader(data, 2, collate_fn=collate_fn, num_workers=1):
        lent += is_lent(images)
        sizes = [
            len(block.memory) for found in memory._received.values() for block in found.values()
        ]
        assert len(sizes) <= memory.POOL_BLOCKS
    assert lent == len(data) // 2
    assert len(images.untyped_storage().block.memory) <= 2 * images.nbytes + 2


class Anew:
    """Make the function anew in each epoch, in the worker, as a user's wrapper might."""

    def __call__(self, samples):
        """Return the images, and the bytes of shared memory that the worker has mapped."""
        if samples[0][2] == 0:
            self.collate_fn = make(reuse_memory=True)
        images, *_ = self.collate_fn(samples)
        status = Path("/proc/self/status").read_text()
        return images, int(status.split("RssShmem:")[1].split()[0]) << 10


@linux
def test_blocks_of_functions_made_anew_do_not_add_up():
    """A persistent worker that makes the function anew in each epoch goes on with few blocks."""
    before, loader, seen = blocks_received(), loader_of(Anew(), num_workers=1), []
    for _ in range(6):
        seen += [(blocks_received() - before, mapped) for _, mapped in loader]
    blocks, mapped = zip(*seen, strict=True)
    assert max(blocks) <= 6
    assert max(mapped) <= max(mapped[: len(loader)]) + (1 << 20)


# --- A user's own function around ours ----------------------------------------------------------


class Around:
    """Call ours in the worker and do something with the batch, before it is sent."""

    def __init__(self, collate_fn, what):
        self.collate_fn, self.what, self.before, self.arrays = collate_fn, what, None, []
        self.queue = fork.SimpleQueue()

    def __call__(self, samples):
        """Return what the chosen method makes of the images."""
        images, *_ = self.collate_fn(samples)
        return getattr(self, self.what)(images)

    def _view(self, images):
        return images, images[1:], images[:, 0]

    def _twice(self, images):
        return [images, images, {"again": images}]

    def _only_a_view(self, images):
        return (images[2:],)

    def _with_the_one_before(self, images):
        before, self.before = self.before, images
        return images, images[:0] if before is None else before

    def _with_a_view_of_the_one_before(self, images):
        before, self.before = self.before, images
        return images, images[:0] if before is None else before[1:]

    def _with_numbers_of_the_one_before(self, images):
        before, self.before = self.before, images.numpy()
        return images, torch.empty(0) if before is None else torch.from_numpy(before)[:, 1]

    def _changed_in_place(self, images):
        return (images.mul_(2),)

    def _changed(self, images):
        return images - 1, images.amax()

    def _transposed(self, images):
        return (images.transpose_(2, 3),)

    def _flattened(self, images):
        return (images.resize_(4, 3 * SIZE * SIZE),)

    def _with_gradients(self, images):
        return (images.requires_grad_(),)

    def _shared(self, images):
        images.share_memory_()
        return (images.add_(1),)

    def _a_copy(self, images):
        return copy.deepcopy(images), copy.copy(images)

    def _queued_elsewhere_before(self, images):
        self.queue.put(images)  # at once, in this thread
        return (images,)

    def _moved_below_an_array(self, images):
        self.arrays.append(images.numpy())
        images.share_memory_()
        return images, torch.tensor([float(array.sum()) for array in self.arrays])

    def _pickled(self, images):
        return pickle.loads(pickle.dumps(images)), images  # noqa: S301  # our own

    def _named(self, images):
        return images, type(images).__name__

    def _other_data(self, images):
        images.data = images.data[1:3]
        return (images,)


@pytest.mark.parametrize("what", sorted(name for name in vars(Around) if name[:2] != "__"))
def test_a_function_around_ours_gets_what_it_would_get_without(what):
    """Whatever a wrapper sends of the batch arrives as without reuse_memory, and stays."""
    found = []
    for reuse in (False, True):
        collate_fn = make(reuse_memory=reuse)
        loader = loader_of(Around(collate_fn, what), num_workers=1)
        now, kept = [], []
        for round_ in range(2):
            collate_fn.set_epoch(0)
            for place, batch in enumerate(loader):
                now.append([copy.deepcopy(part) for part in batch])
                if place % 3 == round_:
                    kept.append((len(now) - 1, batch[-1]))
                del batch
        for place, part in kept:
            assert same(part, now[place][-1])
        found.append(now)
    assert same(*found)
    assert found[0][0][0].requires_grad == found[1][0][0].requires_grad


class Typed(Pictures):
    """Pictures and masks with the types of tv_tensors."""

    def __getitem__(self, index):
        image, label, _ = super().__getitem__(index)
        return tv_tensors.Image(image), tv_tensors.Mask(image), label


def name_types(samples):
    batch = make_collate_fn(torch.nn.Identity())(samples)
    return batch, [type(part).__name__ for part in batch]


def test_tv_tensors_are_lent_with_their_types():
    """Images and masks lie in blocks, and are what they are on both sides."""
    for batch, names in DataLoader(Typed(COUNT, SIZE), 4, collate_fn=name_types, num_workers=1):
        assert names == ["Image", "Mask", "Tensor"] == [type(part).__name__ for part in batch]
        assert torch.equal(batch[0].as_subclass(torch.Tensor), batch[1].as_subclass(torch.Tensor))
        assert is_lent(batch[0])
        assert is_lent(batch[1])


def share(images):
    images.share_memory_()


def queue_up(images):
    queue = fork.SimpleQueue()
    queue.put(images)
    return queue.get()


@pytest.mark.parametrize("move", [share, queue_up, lambda images: queue_up(images[1:])])
@pytest.mark.parametrize("keep", [torch.Tensor.numpy, torch.utils.dlpack.to_dlpack])
def test_what_lies_in_a_block_stays_when_the_pixels_move(expected, move, keep):
    """An array of a batch that the user shares or queues is neither overwritten nor unmapped."""
    loader, kept = loader_of(make(reuse_memory=True), num_workers=1), []
    for images, *_ in loader:
        kept.append(keep(images))
        move(images)
    del loader, images
    gc.collect()
    for one, other in zip(kept, expected[0], strict=True):
        array = one if hasattr(one, "shape") else torch.utils.dlpack.from_dlpack(one).numpy()
        assert array.tobytes() == other[0].numpy().tobytes()


def total(images):
    return float(images.numpy().sum(dtype="float64"))


def keep_half(queue, answers, count):
    """Drop every other batch, keep the rest to the end, and answer with the sums of all."""
    found = []
    for place in range(count):
        images = queue.get()
        found.append(images if place % 2 else total(images))
        del images
    answers.put([one if isinstance(one, float) else total(one) for one in found])


@pytest.mark.parametrize("sender", ["worker", "main process"])
def test_a_third_process_keeps_what_it_is_sent(expected, sender):
    """Batches that the worker, or we, sent to another process stay there, and come to us too."""
    around = Around(make(reuse_memory=True), "_queued_elsewhere_before")
    answers, count = fork.SimpleQueue(), len(expected[0])
    third = fork.Process(target=keep_half, args=(around.queue, answers, count), daemon=True)
    third.start()
    for batch in loader_of(around if sender == "worker" else around.collate_fn, num_workers=1):
        if sender == "main process":
            around.queue.put(batch[0])
    assert answers.get() == [total(batch[0]) for batch in expected[0]]
    third.join()


# --- Forks of the consumer ----------------------------------------------------------------------


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
        found = os.read(reading, 1)
        os.close(reading)
        os.waitpid(child, 0)
        return found

    return answer


pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def test_a_forked_child_that_drops_a_batch_frees_nothing(expected):
    """A child's end of a batch leaves the parent's batch alone."""
    kept = []
    for place, batch in enumerate(loader_of(make(reuse_memory=True), num_workers=1)):
        kept.append(batch)
        if place == 2:

            def drop():
                kept.clear()
                gc.collect()
                return 1

            del batch
            assert fork_and(drop)() == b"1"
    assert same(kept, expected[0])


def test_a_forked_child_may_go_on_reading(expected):
    """A batch that a forked child still reads is not overwritten when the parent drops it."""
    wanted = expected[0][0][0].numpy().tobytes()
    iterator = iter(loader_of(make(reuse_memory=True), num_workers=1))
    batch = next(iterator)
    go, gone = os.pipe()
    # No torch in the child: its threads do not survive a fork.
    held = [batch[0].numpy()]
    answer = fork_and(lambda: os.read(go, 1) and held[0].tobytes() == wanted)
    held.clear()
    del batch
    for place, later in enumerate(iterator, start=1):
        assert same(later, expected[0][place])
    os.write(gone, b"1")
    assert answer() == b"1"
    os.close(go)
    os.close(gone)


# --- Nothing leaks ------------------------------------------------------------------------------


class Many(Dataset):
    """Many samples that cost nothing to make."""

    image = torch.rand(3, SIZE, SIZE)

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return 2 * self.batches

    def __getitem__(self, index):
        return self.image, index % CLASSES


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("persistent", "count"), [(True, 250), (False, 20)])
def test_nothing_leaks(persistent, count):
    """Open files, segments, blocks and resident memory are flat, over 1,000 batches for example."""
    collate_fn = make_collate_fn([Mixup(num_classes=5), CutMix(num_classes=5)], reuse_memory=True)
    loader = DataLoader(
        Many(count), 2, collate_fn=collate_fn, num_workers=2, persistent_workers=persistent
    )
    seen, last = [], None
    for _ in range(4):
        for batch in loader:
            last = batch[0][1:]
        seen.append((*open_things(), resident()))
    assert last is not None
    for early, late in zip(seen[1][:3], seen[3][:3], strict=True):
        assert late <= early + 4
    assert seen[3][3] < seen[1][3] + (8 << 20)  # the batches of two epochs: 73 or 6 MiB


SOAK = Path(__file__).parents[2] / "docs" / "benchmarks" / "soak_reuse_memory.py"
SMALL_SHM = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && "$0" "$@"']


@linux
@pytest.mark.slow
def test_a_short_soak_with_little_shared_memory():
    """Batches kept in every way stay; with a /dev/shm of 64 MB (where we may) as without."""
    soak = [sys.executable, str(SOAK), "--batches", "100", "--kept", "24", "--rounds", "1"]
    may = bool(shutil.which("unshare")) and run(*SMALL_SHM, "true").returncode == 0
    found = run(*SMALL_SHM, *soak) if may else run(*soak)
    assert found.returncode == 0, found.stdout + found.stderr
    assert ("/dev/shm of 64 MB" in found.stdout) == may  # noqa: S108
    assert found.stdout.count("ok    ") >= 6
