"""
Mixing inside a compiled step
=============================

A small network learns to classify roses and tulips. The whole step is compiled as one graph: the
choice between Mixup and CutMix, sampling, mixing of images and labels, the network and the loss.
The example runs on the CPU; on a GPU only the device differs.

The example shows how the parts fit together. To measure the benefit of mixing, use a real data set
and several seeds.
"""

import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tv_mixaug import CutMix, Mixup, OneOf, viz
from tv_mixaug.extras import flowers

torch.manual_seed(0)
images, labels = flowers.draw_flowers(160, size=32)
images = images.as_subclass(torch.Tensor) / 255
train, test = (images[:128], labels[:128]), (images[128:], labels[128:])

# %%
# The step
# --------
# A transform is a module and is called inside the step like any other. With ``mode="sample"`` one
# of the rules is chosen for each sample, so a batch contains mixes of both kinds.

mix = OneOf(
    [Mixup(0.4, num_classes=2, mode="sample"), CutMix(num_classes=2, mode="sample")],
    p=[0.4, 0.4],
    mode="sample",
)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(4),
    nn.Flatten(),
    nn.Linear(512, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


def step(images, labels):
    images, labels = mix(images, labels)
    return nn.functional.cross_entropy(model(images), labels), images, labels


# %%
# Compiled
# --------
# ``fullgraph=True`` raises an error if the graph has a break. The default backend needs a C++
# compiler on the CPU; without one the graph is traced and run by another backend. A counter around
# the backend shows the number of graphs.

try:
    torch.compile(lambda x: x + 1)(torch.zeros(2))
    backend = CompileCounterWithBackend("inductor")
except Exception as error:
    print(f"the default backend is not available: {type(error).__name__}")
    backend = CompileCounterWithBackend("aot_eager")
compiled = torch.compile(step, fullgraph=True, backend=backend)

# %%
# The loop
# --------
# The first step compiles and takes seconds. In the last two epochs mixing is off: setting ``p``
# compiles the graph once more.

epochs, losses, accuracies, seconds, graphs = 14, [], [], [], []
for epoch in range(epochs):
    if epoch == epochs - 2:
        mix.p = [0.0, 0.0]
    total = 0.0
    for rows in torch.randperm(128).split(32):
        start = time.perf_counter()
        loss, mixed, soft = compiled(train[0][rows], train[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        total += loss.item() / 4
    if epoch == 0:
        first = mixed, soft
    with torch.no_grad():
        accuracies.append((model(test[0]).argmax(1) == test[1]).float().mean().item())
    losses.append(total)
    graphs.append(backend.frame_count)

print(f"graphs after the first epoch: {graphs[0]}, before mixing ends: {graphs[-3]}")
print(f"first step {seconds[0]:.1f} s, then {1000 * sorted(seconds)[len(seconds) // 2]:.1f} ms")

# %%
# A batch from the graph
# ----------------------
# One batch contains blended, pasted and unmixed images, with their label weights.

plt.figure(figsize=(6, 6))
plt.imshow(viz.draw_batch(first[0][:6], first[1][:6], flowers.CLASS_NAMES, columns=3))
plt.axis("off")

# %%
# Loss and accuracy
# -----------------

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(losses)
left.set(title="training loss", xlabel="epoch", ylim=(0, None))
right.plot(accuracies)
right.set(title="test accuracy, unmixed images", xlabel="epoch", ylim=(0, 1))
for axis in (left, right):
    axis.axvline(epochs - 2, color="0.6", linestyle=":")
figure.tight_layout()

# %%
# On a GPU
# --------
# Move the model and the batches to the GPU and compile with ``mode="reduce-overhead"``. The step
# becomes a CUDA graph, which samples new mixes in every replay. :doc:`/guide/device` explains when
# to mix in the step and when in the loader.
