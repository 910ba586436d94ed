"""mmpretrain: transforms as batch augmentations, on images and one-hot labels.

The script needs only PyTorch: the data preprocessor below imitates that of mmpretrain, which takes
transforms as `data_preprocessor=dict(..., batch_augments=dict(augments=[...], probs=[...]))`.
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup
from tv_mixaug.extras import flowers


class Preprocessor(nn.Module):
    """Scale and mix a batch of images, with (B, K) labels."""

    def __init__(self, augments, probs, num_classes):
        super().__init__()
        self.augments, self.probs, self.num_classes = augments, probs, num_classes

    def forward(self, images, labels, training):
        images = images.float() / 255
        scores = nn.functional.one_hot(labels, self.num_classes)  # integers, as in mmpretrain
        number = np.random.choice(len(self.probs) + 1, p=[*self.probs, 1 - sum(self.probs)])
        if not training or number == len(self.augments):
            return images, scores.float()
        return self.augments[number](images, scores)


def main():
    torch.manual_seed(0)
    np.random.seed(0)  # chooses the augmentation, which uses torch's generator
    loader = DataLoader(TensorDataset(*flowers.draw_flowers(64, size=32)), 16, shuffle=True)
    # mmpretrain: augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
    preprocess = Preprocessor([Mixup(0.8), CutMix(1.0)], probs=[0.4, 0.4], num_classes=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(2):
        for batch in loader:
            x, y = preprocess(*batch, training=True)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
