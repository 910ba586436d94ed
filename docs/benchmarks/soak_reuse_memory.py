"""Test that reused memory never changes a batch that is still held, for thousands of batches.

    python docs/benchmarks/soak_reuse_memory.py --batches 5000

With a /dev/shm of 64 MB, the default of containers (needs root):

    unshare -m sh -c 'mount -t tmpfs -o size=64m tmpfs /dev/shm &&
        python docs/benchmarks/soak_reuse_memory.py'

The first part holds a random half of all batches for a random time: as tensors, lists, views,
arrays, capsules, in an autograd graph, in a queue to another process, and so on. The bytes of a
held batch must not change, and memory, open files and blocks must stay within bounds that do not
depend on the number of batches. The second part holds more batches than a pool has blocks, with
default_collate for comparison. The script exits with an error if a check fails.
"""

import argparse
import copy
import gc
import os
import pickle
import random
import re
import shutil
import statistics
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from tv_mixaug import Mixup, make_collate_fn
from tv_mixaug.loading import memory_pool

CLASSES, SIDES = 5, (64, 96, 80, 112)
fork = torch.multiprocessing.get_context("fork")


class Shades(Dataset):
    """Images of one shade each, with the requested side."""

    def __getitem__(self, index):
        number, side = index
        return torch.full((3, side, side), number % 251 / 250), number % CLASSES, number


class RandomBatches:
    """Sample batches of 3 to 6 images; most have one side, which changes after 70 batches."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return self.batches

    def __iter__(self):
        for place in range(self.batches):
            usual = SIDES[place // 70 % len(SIDES)]
            side = usual if random.random() < 0.9 else random.choice(SIDES)
            yield [(random.randrange(10_000), side) for _ in range(random.randint(3, 6))]


def graph(images):
    weight = torch.ones((), requires_grad=True)
    return (images * weight).grad_fn


def array_then_share(images):
    array = images.numpy()
    images.share_memory_()
    return array


def capsule_then_queue(images):
    capsule, queue = torch.utils.dlpack.to_dlpack(images), fork.SimpleQueue()
    queue.put(images)
    queue.get()
    return capsule


KEEPERS = {
    "tensor": lambda images: images,
    "list": lambda images: list(images),
    "view": lambda images: images[1:, :, 3:],
    "transposed": lambda images: images.permute(0, 2, 3, 1),
    "storage": lambda images: images.untyped_storage(),
    "array": lambda images: images.numpy(),
    "view of an array": lambda images: images.numpy()[1:, 0],
    "memoryview": lambda images: memoryview(images.numpy()),
    "capsule": torch.utils.dlpack.to_dlpack,
    "array by DLPack": np.from_dlpack,
    "graph": graph,
    "deep copy": copy.deepcopy,
    "pickled": pickle.dumps,
    "array, then shared": array_then_share,
    "capsule, then queued": capsule_then_queue,
}


def checksum(kept):
    """Return a checksum of a held object; a capsule can be opened only once."""
    if isinstance(kept, list):
        kept = torch.stack(kept)
    if isinstance(kept, bytes):
        kept = pickle.loads(kept)
    if "Mul" in type(kept).__name__:
        kept = kept._saved_self
    if type(kept).__name__ == "PyCapsule":
        kept = torch.utils.dlpack.from_dlpack(kept)
    if isinstance(kept, torch.UntypedStorage):
        kept = torch.tensor([], dtype=torch.uint8).set_(kept)
    return zlib.crc32(np.ascontiguousarray(kept))


def hold_elsewhere(queue, answers):
    """Hold up to 20 batches in another process, and return the number of changed ones."""
    held, changed = [], 0
    while (message := queue.get()) is not None:
        held.append(message)
        if len(held) > 20:
            images, wanted = held.pop(random.randrange(len(held)))
            changed += checksum(images) != wanted
    answers.put(changed + sum(checksum(images) != wanted for images, wanted in held))


def shared_bytes(processes):
    """Return the bytes of shared memory mapped by the processes, each file once."""
    files = {}
    for process in processes:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            found = re.match(r"(\w+)-(\w+) .* (\d+) +(/memfd:tv_mixaug|/dev/shm/torch_)", line)
            if found:
                start, end, inode, _ = found.groups()
                files[inode] = int(end, 16) - int(start, 16)
    return sum(files.values())


def blocks():
    return sum(map(len, memory_pool._received.values()))


def check(is_so, text):
    print("ok    " if is_so else "FAILED", text, flush=True)
    if not is_so:
        raise SystemExit(1)


def is_right(batch):
    """Whether each image has one shade, which follows from the recorded plan."""
    images, _, numbers, plan = batch
    shades = numbers % 251 / 250
    lam = torch.where(plan.op == 0, 1.0, plan.lam)
    wanted = lam * shades + (1 - lam) * shades[plan.partner]
    flat = images.flatten(1)
    return bool((flat == flat[:, :1]).all() and torch.allclose(flat[:, 0], wanted.float()))


def keep(images, way):
    """Return the images in another form, and its checksum."""
    differs = way in ("view", "transposed", "view of an array", "storage")
    wanted = checksum(KEEPERS[way](images) if differs else images)
    return KEEPERS[way](images), wanted


def soak(count):
    """Hold random batches for a random time, over many epochs, some of which end early."""
    collate_fn = make_collate_fn(Mixup(num_classes=CLASSES, passthrough=(2,), p=0.7), record=True)
    queue, answers = fork.SimpleQueue(), fork.SimpleQueue()
    other = fork.Process(target=hold_elsewhere, args=(queue, answers), daemon=True)
    other.start()
    loader, kept, ways, measured = None, [], Counter(), []
    seen = lent = wrong = most_kept = 0
    while seen < count:
        if loader is None or random.random() < 0.2:
            loader = DataLoader(
                Shades(), batch_sampler=RandomBatches(140), collate_fn=collate_fn, num_workers=2,
                persistent_workers=random.random() < 0.8,
            )  # fmt: skip
        iterator, end = iter(loader), random.choice([20, 140, 140])
        for place, batch in enumerate(iterator):
            seen += 1
            lent += not batch[0].is_shared()
            wrong += not is_right(batch)
            way = random.choice(["queue", *KEEPERS]) if random.random() < 0.5 else "dropped"
            ways[way] += 1
            if way == "queue":
                queue.put((batch[0], checksum(batch[0])))
            elif way != "dropped":
                kept.append((seen + random.randrange(1, 60), *keep(batch[0], way)))
            del batch
            wrong += sum(checksum(one) != wanted for until, one, wanted in kept if until <= seen)
            kept = [one for one in kept if one[0] > seen]
            most_kept = max(most_kept, len(kept))
            if place == end or seen == count:
                break
        children = [child.pid for child in torch.multiprocessing.active_children()]
        mapped = shared_bytes([os.getpid(), *(pid for pid in children if pid != other.pid)])
        measured.append((mapped >> 20, len([*Path("/proc/self/fd").iterdir()]), blocks()))
        del iterator
    wrong += sum(checksum(one) != wanted for _, one, wanted in kept)
    queue.put(None)
    wrong += answers.get()
    print(f"{seen} batches:", ", ".join(f"{name} {number}" for name, number in ways.items()))
    check(wrong == 0, "every batch was correct, and no held batch changed")
    check(lent >= 0.9 * seen, f"{lent} of {seen} batches were in reused blocks")
    most = 2 * memory_pool.POOL_BLOCKS  # of two workers
    largest = 6 * 3 * max(SIDES) ** 2 * 4 / 2**20
    limits = 2 * (most + most_kept) * largest, 3 * (most + most_kept), most
    names = "MB of shared memory", "open files", "blocks"
    for name, found, limit in zip(names, zip(*measured, strict=True), limits, strict=True):
        check(max(found) <= limit, f"at most {max(found)} {name}, limit {limit:.0f}")


def keep_many(function, count):
    """Hold all batches of a loop; return their number, seconds per batch, MB shared and files."""
    draws = [[(number, 160) for number in range(place, place + 8)] for place in range(count)]
    loader = DataLoader(Shades(), batch_sampler=draws, collate_fn=function, num_workers=1)
    files, kept, iterator = len([*Path("/proc/self/fd").iterdir()]), [], iter(loader)
    start = time.perf_counter()
    try:
        kept.extend(iterator)
    except RuntimeError as error:
        if "No space left" not in str(error):
            raise
    seconds = (time.perf_counter() - start) / len(kept)
    files = len([*Path("/proc/self/fd").iterdir()]) - files
    del iterator, loader
    gc.collect()  # an error keeps references to the workers
    return len(kept), seconds, shared_bytes([os.getpid()]) / 2**20, files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--kept", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.set_num_threads(1)
    shm = shutil.disk_usage("/dev/shm")
    print(f"torch {torch.__version__}, /dev/shm of {shm.total >> 20} MB")
    soak(options.batches)

    ours = make_collate_fn(Mixup(num_classes=CLASSES, passthrough=(2,)))
    found = {"default_collate": [], "Mixup": []}
    for _ in range(options.rounds):
        for name, function in (("default_collate", default_collate), ("Mixup", ours)):
            found[name].append(keep_many(function, options.kept))
    plain, mixed = (
        [statistics.median(one) for one in zip(*f, strict=True)] for f in found.values()
    )
    print(f"{options.kept} held: batches, seconds per batch, MB shared, open files")
    print("    default_collate: {:.0f}, {:.4f}, {:.0f}, {:.0f}".format(*plain))
    print("    Mixup:           {:.0f}, {:.4f}, {:.0f}, {:.0f}".format(*mixed))
    check(mixed[0] >= plain[0], "at least as many batches can be held as with default_collate")
    if options.kept >= 100:  # fewer take too little time to compare
        check(mixed[1] <= 1.5 * plain[1], "holding them takes at most 1.5 times as long")
    if mixed[0] == plain[0]:
        check(mixed[2] <= 1.05 * plain[2], "holding them takes at most 1.05 times the memory")
        check(mixed[3] <= 1.05 * plain[3], "holding them takes at most 1.05 times the open files")


if __name__ == "__main__":
    main()
