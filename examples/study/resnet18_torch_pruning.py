r"""Prunes ResNet-18's filters by Torch-Pruning, for comparison.

    python -m venv torch && torch/bin/pip install torch torch-pruning numpy
    torch/bin/python examples/study/resnet18_torch_pruning.py \
        runs/resnet18_cifar10/seed0/60x_torch_pruning --conv_weights=184848

In an environment of its own, without Keras. Reads `dense.npz` of a folder,
which the phase `prune` of a point with `"by": "elsewhere"` writes, and leaves
`pruned.npz`: groups of filters that fall together, the least by their L2 norm
in all layers first, in steps, until no more convolution weights than wanted
are left.
"""

import argparse
import pathlib

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn import functional


class Unit(nn.Module):
    """A convolution, padded as Keras pads it, and its normalization."""

    def __init__(self, arrays, name, strides):
        super().__init__()
        kernel = arrays[f"{name}/kernel"]
        size, _, channels, filters = kernel.shape
        # Keras pads an even size at stride 2 by 0 before and 1 after.
        self.uneven = strides == 2 and size == 3
        padding = 0 if self.uneven else size // 2
        self.conv = nn.Conv2d(
            channels, filters, size, strides, padding, bias=False
        )
        self.norm = nn.BatchNorm2d(filters, eps=1e-5)
        self.name = name
        with torch.no_grad():
            self.conv.weight.copy_(
                torch.from_numpy(kernel.transpose(3, 2, 0, 1))
            )
            for key, value in self.vectors().items():
                value.copy_(torch.from_numpy(arrays[key]))

    def vectors(self):
        """The vectors of the normalization by their names in Keras."""
        norm = self.norm
        return {
            f"{self.name}_norm/gamma": norm.weight,
            f"{self.name}_norm/beta": norm.bias,
            f"{self.name}_norm/moving_mean": norm.running_mean,
            f"{self.name}_norm/moving_variance": norm.running_var,
        }

    def forward(self, x):
        if self.uneven:
            x = functional.pad(x, (0, 1, 0, 1))
        return self.norm(self.conv(x))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, arrays, name, strides):
        super().__init__()
        self.conv1 = Unit(arrays, f"{name}_conv1", strides)
        self.conv2 = Unit(arrays, f"{name}_conv2", 1)
        self.shortcut = nn.Identity()
        if strides > 1:
            self.shortcut = Unit(arrays, f"{name}_shortcut", strides)

    def forward(self, x):
        y = self.conv2(functional.relu(self.conv1(x)))
        return functional.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """The network of `networks.resnet18`, for images `(n, 3, h, w)`.

    Args:
        arrays: dict of the weights by the path of their variable in Keras.
    """

    def __init__(self, arrays):
        super().__init__()
        self.stem = Unit(arrays, "stem", 1)
        self.blocks = nn.Sequential(
            *(
                Block(
                    arrays,
                    f"stage{stage}_block{block}",
                    2 if stage > 1 and block == 1 else 1,
                )
                for stage in range(1, 5)
                for block in (1, 2)
            )
        )
        kernel = arrays["logits/kernel"]
        self.logits = nn.Linear(*kernel.shape)
        with torch.no_grad():
            self.logits.weight.copy_(torch.from_numpy(kernel.T))
            self.logits.bias.copy_(torch.from_numpy(arrays["logits/bias"]))

    def forward(self, x):
        x = (x - 0.473) / 0.063**0.5  # as the layer `pixels` does
        x = self.blocks(functional.relu(self.stem(x)))
        return self.logits(x.mean((2, 3)))

    def arrays(self):
        """The weights as they were given, at the widths they have now."""
        found = {
            "logits/kernel": self.logits.weight.T,
            "logits/bias": self.logits.bias,
        }
        for unit in self.modules():
            if isinstance(unit, Unit):
                kernel = unit.conv.weight.permute(2, 3, 1, 0)
                found |= {f"{unit.name}/kernel": kernel} | unit.vectors()
        return {k: v.detach().numpy().copy() for k, v in found.items()}


def num_conv_weights(model):
    return sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)
    )


def prune(model, images, conv_weights, steps=300):
    """Prunes filters until `conv_weights` are left, or a little less."""
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        images,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        iterative_steps=steps,
        pruning_ratio=0.99,
        ignored_layers=[model.logits],
    )
    for _ in range(steps):
        if num_conv_weights(model) <= conv_weights:
            return
        pruner.step()
    raise SystemExit(f"{num_conv_weights(model)} convolution weights stay.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--conv_weights", type=int, required=True)
    wanted = parser.parse_args()
    with np.load(wanted.folder / "dense.npz") as arrays:
        arrays = {name: arrays[name] for name in arrays.files}
    model = ResNet18(arrays).eval()
    prune(model, torch.zeros(1, 3, 32, 32), wanted.conv_weights)
    pruned = model.arrays()
    np.savez(wanted.folder / "pruned.npz", **pruned)
    for name, array in pruned.items():
        if name.endswith("/kernel"):
            print(f"{name}: {array.shape}")
    print(f"{num_conv_weights(model):,} convolution weights")


if __name__ == "__main__":
    main()
