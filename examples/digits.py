"""Train a small network on handwritten digits, keep its weights, and load them in another process.

Run it without arguments, or with the path to write to. The network is a small convolutional one, the digits are the
1,797 real ones that come with scikit-learn. The run ends with an error when the loaded network does not score exactly
what the trained one did.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import perdure


class Net(nn.Module):
    """Two convolutions and a linear layer over 8 × 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.25)
        self.fc = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.dropout(self.features(images).flatten(1)))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; the same split every time."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(images, data.target, test_size=0.25, random_state=0, stratify=data.target)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train_images, train_labels, test_images, test_labels


def train(net: Net, images: Tensor, labels: Tensor, *, epochs: int = 12, batch_size: int = 64) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def count_correct(net: Net, images: Tensor, labels: Tensor) -> int:
    return int((net.eval()(images).argmax(1) == labels).sum())


def train_and_save(path: str) -> None:
    torch.manual_seed(0)
    train_images, train_labels, test_images, test_labels = digits()
    net = Net()
    begin = time.perf_counter()
    train(net, train_images, train_labels)
    n_correct = count_correct(net, test_images, test_labels)
    accuracy = n_correct / len(test_labels)
    print(f"trained in {time.perf_counter() - begin:.1f} s, accuracy {accuracy:.2%} on {len(test_labels)} test digits")

    report = perdure.save_weights(net, path, notes={"data": "scikit-learn digits", "n_correct": n_correct})
    print(f"saved {report.path}, {report.n_bytes:,} bytes")

    print(f"\n$ perdure info {path}", flush=True)
    subprocess.run([sys.executable, "-m", "perdure", "info", path], check=True)

    print(f"\n$ python {sys.argv[0]} --load {path}", flush=True)
    subprocess.run([sys.executable, __file__, "--load", path, "--expect", str(n_correct)], check=True)


def load_and_score(path: str, expect: int | None) -> None:
    *_, test_images, test_labels = digits()
    net = Net()
    print(perdure.load_weights(net, path))
    n_correct = count_correct(net, test_images, test_labels)
    print(f"accuracy {n_correct / len(test_labels):.2%} on {len(test_labels)} test digits, in a new process")
    if expect is not None and n_correct != expect:
        sys.exit(f"the trained network recognised {expect} digits, the loaded one {n_correct}: they must be equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="digits.safetensors")
    parser.add_argument("--load", action="store_true", help="load PATH and score it, instead of training")
    parser.add_argument("--expect", type=int, metavar="N", help="fail unless N test digits are recognised")
    options = parser.parse_args()
    # A network this small gains nothing from a second thread, and waits for it on a busy machine.
    torch.set_num_threads(1)
    if options.load:
        load_and_score(options.path, options.expect)
    else:
        train_and_save(options.path)
