r"""ResNet-18 on CIFAR-10, from dense to a small `.tflite` file.

    python -m examples.resnet18_cifar10                        # by TFDS
    python -m examples.resnet18_cifar10 --dataset=cifar10.npz
    python -m examples.resnet18_cifar10 dense teach            # two phases
    python -m examples.resnet18_cifar10 prune --points=60x
    python -m examples.resnet18_cifar10 --quick                # as a test

Phases, in this order; all but the last if none is named. One that is done is
not done again, and one that was cut off goes on at its last epoch.

    dense     trains the dense network
    teach     asks it for its answers to the crops that students will see
    prune     ADMM, hard prune, removal of unused paths
    retrain   what is zero stays zero; the dense network teaches
    purify    on the validation split, within a budget
    strip     leaves out empty columns too; certificate, small.keras
    export    small.tflite and int8.tflite; needs TensorFlow
    compare   times of points on LiteRT, latency.md; only if it is named

Points that are pruned otherwise, for comparison, are gone to if they are named:
`60x_filters` by magnitude, and `60x_torch_pruning` by another library, see
`examples/study/resnet18_torch_pruning.py`.

Images of your own go in by `--dataset=PATH.npz` too, as `x_train`, `y_train`,
`x_test` and `y_test`; they are made as large as the recipe says, or
`--image_size`. `"flips": false` in a recipe is for those that may not be
mirrored.

The recipe is for a GPU, where an epoch takes seconds:

    KERAS_BACKEND=jax python -m examples.resnet18_cifar10 \
        --dataset=cifar10.npz --checkpoint_every=10

JAX needs no TensorFlow for it, but for `export`, which may follow elsewhere on
the same `--output_dir`. It has not been run to its end; the shorter one, for
two CPU cores, is `--recipe=examples/recipes/resnet18_cifar10_cpu.json`.
"""

import pathlib
import sys

if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parent.parent))

from examples.study import phase_command

if __name__ == "__main__":
    phase_command.run("resnet18_cifar10")
