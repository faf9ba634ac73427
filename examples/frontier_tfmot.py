r"""Unstructured pruning by tensorflow-model-optimization, for a frontier.

    python3 -m venv .venv-tfmot && .venv-tfmot/bin/pip install \
        tensorflow tf-keras tensorflow-model-optimization scikit-learn
    .venv-tfmot/bin/python -m examples.frontier_tfmot --dataset=mnist.npz
    .venv/bin/python -m examples.frontier --dataset=mnist.npz --methods=tfmot

In an environment of its own, since that library needs Keras 2. It starts from
the dense networks that `examples.frontier` trained, prunes each layer of a
point to as many weights as the point keeps there, wherever they lie, in the
same number of epochs with the same teacher, and writes `weights.npz` where
the second command reads it, measures it and adds it to the table.
"""

import argparse
import json
import os
import pathlib

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from examples import distillation
from examples import image_data

sparsity = tfmot.sparsity.keras


def lenet5(input_shape, num_classes):
    """`examples.networks.lenet5` in Keras 2."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.InputLayer(input_shape),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def pruned(model, keep, begin, end):
    """The model with each layer that a point names wrapped."""

    def wrap(layer):
        if layer.name not in keep:
            return layer
        filters, columns = keep[layer.name]
        number = (filters or layer.kernel.shape[-1]) * columns
        return sparsity.prune_low_magnitude(
            layer,
            pruning_schedule=sparsity.PolynomialDecay(
                0.0,
                1 - number / int(np.prod(layer.kernel.shape)),
                begin,
                end,
                frequency=max(1, (end - begin) // 30),
            ),
        )

    return tf_keras.models.clone_model(model, clone_function=wrap)


def dataset(batches):
    """Batches of a `PyDataset`, epoch after epoch, as a `tf.data.Dataset`."""

    def generate():
        for index in range(len(batches)):
            yield batches[index]
        batches.on_epoch_end()

    signature = [
        tf.TensorSpec((None, *part.shape[1:]), part.dtype)
        for part in batches[0]
    ]
    found = tf.data.Dataset.from_generator(
        generate, output_signature=tuple(signature)
    )
    return found.prefetch(2)


class Rate(tf_keras.optimizers.schedules.LearningRateSchedule):
    """`first` for `steps` steps, then from `then` to 0 in `last` steps."""

    def __init__(self, first, steps, then, last):
        self.first = first
        self.steps = steps
        self.falling = tf_keras.optimizers.schedules.CosineDecay(then, last)

    def __call__(self, step):
        return tf.where(
            step < self.steps, self.first, self.falling(step - self.steps)
        )


def epochs_to(recipe, point):
    """As of `examples.recipes.Recipe`, which needs another environment."""
    chain = next(chain for chain in recipe["chains"] if point in chain)
    rounds = chain.index(point) + 1
    first = recipe["base_admm_epochs"] + recipe["base_retrain_epochs"]
    return first + rounds * (recipe["admm_epochs"] + recipe["retrain_epochs"])


def train(recipe, data, folder, point, seed):
    """The weights of one result, as a list of arrays."""
    tf_keras.utils.set_random_seed(seed)
    tf_keras.mixed_precision.set_global_policy(recipe["precision"])
    dense = folder / "dense" / f"seed{seed}"
    batches = distillation.TaughtShifts(
        data["train"],
        np.load(dense / "teacher_logits.npy"),
        recipe["batch_size"],
        seed,
    )
    model = lenet5(data["train"].x.shape[1:], batches.logits.shape[-1])
    with np.load(dense / "weights.npz") as weights:
        model.set_weights([weights[key] for key in weights])
    last = recipe["retrain_epochs"]
    first = epochs_to(recipe, point) - last
    ramp = first * len(batches)
    model = pruned(model, recipe["points"][point], 0, ramp)
    rate = Rate(
        recipe["admm_rate"], ramp, recipe["retrain_rate"], last * len(batches)
    )
    loss = distillation.Distillation(
        recipe["distillation"], recipe["temperature"]
    )
    model.compile(tf_keras.optimizers.Adam(rate), loss.call)
    model.fit(
        dataset(batches),
        epochs=first + last,
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=2,
    )
    return sparsity.strip_pruning(model).get_weights()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--recipe",
        type=pathlib.Path,
        default=pathlib.Path(__file__).with_name("recipes")
        / "lenet5_mnist.json",
    )
    parser.add_argument(
        "--output_dir", type=pathlib.Path, default="runs/frontier"
    )
    parser.add_argument("--points", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    recipe = json.loads(args.recipe.read_text())
    for seed in args.seeds:
        data = image_data.load(args.dataset, seed)
        for point in args.points:
            path = args.output_dir / "tfmot" / point / f"seed{seed}"
            if not (path / "weights.npz").exists():
                weights = train(recipe, data, args.output_dir, point, seed)
                path.mkdir(parents=True, exist_ok=True)
                np.savez(path / "weights.npz", *weights)


if __name__ == "__main__":
    main()
