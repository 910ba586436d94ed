"""Test what reaches the main process from workers that are forked, spawned or forked by a server.

Each test shows that a worker behaves as if there were no pool of memory, no inherited lock and no
frame but torch's.
"""

import contextlib
import pickle
import threading
from pathlib import Path

import pytest
import torch
from helpers import workers
from helpers.loading import CLASSES, Pictures, Sample, make, same
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from tv_mixaug import Mixup, make_collate_fn
from tv_mixaug.engine.sampling import seeded_global_rng
from tv_mixaug.loading.collate import RANK_VARIABLES

SIDE = 80  # four pictures are large enough for a block
METHODS = pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver"))],
)
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def loader_of(collate_fn, method, samples=None, **options):
    options = {"batch_size": 4, "num_workers": 1, "timeout": 90, **options}
    samples = Pictures(24, SIDE) if samples is None else samples
    return DataLoader(samples, collate_fn=collate_fn, multiprocessing_context=method, **options)


def plain(**options):
    return make_collate_fn(Mixup(num_classes=CLASSES), p=0.0, **options)


@METHODS
def test_reused_memory_arrives_as_fresh_memory(method):
    """Types, attributes, strides, shared elements and values do not depend on reuse_memory."""
    images, found = torch.rand(8, 3, SIDE, SIDE), []
    samples = [(tv_tensors.Image(one), tv_tensors.Mask(one > 0.5)) for one in images]
    for reuse in (False, True):
        collate_fn = make_collate_fn(torch.nn.Identity(), reuse_memory=reuse)
        sent = list(loader_of(workers.Around(collate_fn, workers.every_form), method, samples))
        found.append([workers.describe(batch, []) for batch in sent])
        sent[0]["views"][1].zero_()
        assert not sent[0]["views"][0][1:].any()
    assert found[0] == found[1]


@METHODS
def test_a_users_way_to_send_tensors_is_kept(method):
    """A reducer that is registered with multiprocessing is used for batches, too."""
    loader = loader_of(plain(), method, [(torch.ones(1, 256, 256), 1)] * 4)
    loader.worker_init_fn = workers.send_by_value
    assert next(iter(loader))[0].tolist() == [4 * 65536.0 + 1] * 2


@METHODS
@pytest.mark.parametrize("reuse", [True, False])
def test_a_child_of_a_worker_may_go_on_reading(method, reuse):
    """What a process that is forked in a worker inherits is not overwritten."""
    reader = workers.ForkedReader(plain(reuse_memory=reuse))
    samples = [(torch.full((3, SIDE, SIDE), float(n)), 1) for n in range(80)]
    for place, (images, is_same) in enumerate(loader_of(reader, method, samples)):
        assert is_same
        assert images.flatten(1).unique().tolist() == list(
            map(float, range(4 * place, 4 * place + 4))
        )


def hold_foreign_randomness(started, end):
    with seeded_global_rng(torch.Generator()):
        started()
        end()


@METHODS
def test_workers_that_start_while_a_thread_holds_a_lock_do_not_wait(method):
    """Locks of the main process do not bind its workers."""
    started, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold_foreign_randomness, args=(started.set, end.wait))
    thread.start()
    assert started.wait(30)
    try:
        assert len(list(loader_of(workers.use_locks, method, range(8), timeout=60))) == 2
    finally:
        end.set()
        thread.join()


@linux
def test_many_functions_need_few_open_files():
    """Functions and those for validation do not hold files open."""
    before = len(workers.open_files())
    kept = [make_collate_fn(Mixup(num_classes=CLASSES), seed=n) for n in range(300)]
    kept += [collate_fn.for_validation() for collate_fn in kept]
    assert len(workers.open_files()) <= before + 20


@linux
@METHODS
def test_workers_that_end_leave_no_memory(method):
    """An exhausted iterator that is kept holds the memory of batches in use alone."""
    before, iterators = workers.allocated_memory(), []
    for count in range(3):
        loader = loader_of(plain(), method, [(torch.rand(3, SIDE, SIDE), 1)] * 32)
        iterators.append(iter(loader))
        kept = [batch[0] for batch in iterators[-1]]
        del kept[2:]
        limit = 2 * kept[0].nbytes + (1 << 17)  # a page per block
        assert 0 < workers.allocated_memory() - before <= limit
        assert kept[1].amax() > 0.9
        del kept
        assert workers.allocated_memory() <= before + (1 << 17), count


@linux
@METHODS
def test_the_pool_shrinks_after_a_burst(method):
    """Some time after many batches were kept, the pool has the memory of a few."""
    before, kept, held = workers.allocated_memory(), [], []
    samples = [(torch.full((3, SIDE, SIDE), n / 29), 1) for n in range(30)] * 14
    for place, (images, _) in enumerate(loader_of(plain(), method, samples, batch_size=2)):
        kept = [*kept, images] if place < 12 else []
        assert images.amax() == samples[2 * place + 1][0].amax()
        held.append((workers.allocated_memory() - before) / images.nbytes)
    assert held[11] >= 12
    assert held[-1] <= 8


@METHODS
@pytest.mark.parametrize("name", workers.NAMESAKES)
def test_names_of_torch_in_other_code_mean_nothing(method, name):
    """A user's function with a name of torch's changes no mix, in a worker or elsewhere."""
    samples = list(Pictures(8, SIDE))
    namesake = workers.Namesake(name, make())
    assert same(namesake(samples), make()(samples))
    found, wanted = (list(loader_of(one, method)) for one in (namesake, make()))
    assert same(found, wanted)


@linux
@METHODS
def test_no_file_stays_open_for_a_kept_batch_where_torch_keeps_none(method, monkeypatch):
    """With the sharing strategy file_system, kept batches need no open files."""
    monkeypatch.setattr(torch.multiprocessing, "_sharing_strategy", "file_system")
    samples = [(torch.rand(3, SIDE, SIDE), 1)] * 80
    iterator = iter(loader_of(plain(), method, samples, worker_init_fn=workers.share_by_name))
    kept, before = [next(iterator)], len(workers.open_files())
    kept += list(iterator)
    assert len(kept) == 20
    assert len(workers.open_files()) <= before


KNOWN = "RANK SLURM_PROCID PMI_RANK PMIX_RANK OMPI_COMM_WORLD_RANK MV2_COMM_WORLD_RANK HOROVOD_RANK"


@pytest.mark.parametrize("name", KNOWN.split())
def test_every_launcher_names_the_rank(name, monkeypatch):
    """The variable of each launcher is read, also by a copy, and an explicit rank comes first."""
    for other in RANK_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    samples, pickled = list(Pictures(8)), pickle.dumps(make())
    wanted = [make(rank=rank)(samples) for rank in (0, 3)]
    assert not same(*wanted)
    assert same(make()(samples), wanted[0])
    monkeypatch.setenv(name, "3")
    assert same(make()(samples), wanted[1])
    assert same(pickle.loads(pickled)(samples), wanted[1])  # noqa: S301
    assert same(make(rank=0)(samples), wanted[0])


@METHODS
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"seed": None}], ids=str)
def test_a_rank_that_workers_could_not_find_is_warned_of(method, options, monkeypatch):
    """If torch.distributed starts after workers that mix by the rank, set_epoch warns."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    collate_fn = make(**options)
    loader = loader_of(collate_fn, method, persistent_workers=True)
    collate_fn.set_epoch(0)
    early = list(loader)
    for name, value in {"is_initialized": True, "get_rank": 2, "get_world_size": 4}.items():
        monkeypatch.setattr(torch.distributed, name, lambda *_, value=value: value)
    with contextlib.ExitStack() as stack:
        if not options:
            text = "batches were mixed as rank 0, but this is rank 2; .* or give `rank=`"
            stack.enter_context(pytest.warns(UserWarning, match=text))
        collate_fn.set_epoch(0)
    late = list(loader_of(collate_fn, method))
    assert same(early, late) == bool(options.get("rank"))
    collate_fn.set_epoch(1)


FORMS = {
    "a named tuple": lambda one, label: Sample(one, label),
    "a mapping": lambda one, label: workers.Fields(images=one, labels=label),
    "a list": lambda one, label: workers.Items([one, label]),
    "a tuple": lambda one, label: (one, label),
}


@METHODS
@pytest.mark.parametrize("form", FORMS)
def test_a_record_keeps_the_kind_of_the_batch(method, form):
    """With record=True, a batch has its type, its fields, and the plan as mix or as the last."""
    samples = [FORMS[form](one, label) for one, label, _ in Pictures(8)]
    options = {"seed": 1, "record": True}
    found = [
        *DataLoader(samples, 4, collate_fn=make_collate_fn(Mixup(num_classes=CLASSES), **options)),
        *loader_of(make_collate_fn(Mixup(num_classes=CLASSES), **options), method, samples),
    ]
    assert all(type(batch) is type(found[0]) for batch in found)
    for batch, worker in zip(found[:2], found[2:], strict=True):
        values = list(batch.values() if isinstance(batch, dict) else batch)
        again = list(worker.values() if isinstance(worker, dict) else worker)
        assert len(values) == 3
        assert same(values[:2], again[:2])
        assert torch.equal(values[2].lam, again[2].lam)
        if form == "a tuple":
            assert type(batch) is list  # as torch collates it
        else:
            assert isinstance(batch, type(samples[0]))
        if form == "a named tuple":
            assert batch.images is batch[0]
            assert batch.mix is batch[2]
            assert batch._fields == ("images", "labels", "mix")
            assert type(batch)(*batch) == batch._replace(mix=batch.mix)
        if form == "a mapping":
            assert [*batch] == ["images", "labels", "mix"]
