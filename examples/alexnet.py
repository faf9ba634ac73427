r"""AlexNet on natural images, from dense to a small `.tflite` file.

    python -m examples.alexnet                     # Imagenette, by TFDS
    python -m examples.alexnet --dataset=imagenette96.npz --seed=1
    python -m examples.alexnet dense teach         # two phases
    python -m examples.alexnet --points=5x
    python -m examples.alexnet --quick             # as a test

The phases are those of `examples.resnet18_cifar10`, each done once, and
convolutions and dense layers are pruned together. Imagenette is ten classes
of ImageNet, here at 96 pixels, which two cores train. `--image_size` says how
many pixels the network sees; images are kept at that size in `--images_dir`.
Tables of several seeds: `python -m examples.study.phase_report`.

`10x_at_once` and `10x_filters` are pruned by magnitude, for comparison, and
gone to if they are named.

All of ImageNet, on a machine with a GPU and with 300 GB of disk for images
(`--image_size=112`: 85 GB) and 31 GB for the dense network's answers, besides
what TFDS takes for the archives that it asks for; images are then looked at in
crops of 224 of 256 pixels:

    KERAS_BACKEND=jax python -m examples.alexnet --workers=8 \
        --recipe=examples/recipes/alexnet_imagenet.json

Its settings are where one would start from: nobody has run it to its end.
`"options": {"normalization": "local"}` in a recipe is the paper's way to
normalize; it wants a tenth of the learning rates, and null for the filters of
conv1 and conv2 in each point, which it ties to their neighbors.
"""

import pathlib
import sys

if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parent.parent))

from examples.study import phase_command

if __name__ == "__main__":
    phase_command.run("alexnet_imagenette96")
