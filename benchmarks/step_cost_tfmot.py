"""What the pruning wrapper of tensorflow-model-optimization adds to a step.

    python3 -m venv .venv-tfmot && .venv-tfmot/bin/pip install \
        tensorflow tf-keras tensorflow-model-optimization
    .venv-tfmot/bin/python -m benchmarks.step_cost_tfmot

The other side of `benchmarks/step_cost.py`: the same models and batches, in
an environment of its own, since that library needs Keras 2. Its masks are
updated every `--update_every` steps. Those steps are timed with the others;
`amortised` is the ratio of the means, `step` the median of the ratios.
"""

import argparse
import os
import platform

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks import step_models
from benchmarks import step_timing

KINDS = ("bare", "bare again", "tfmot")


def trainee(kind, args):
    """A function that trains one step, its callbacks included."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    sparsity = tfmot.sparsity.keras
    tf_keras.utils.set_random_seed(args.seed)
    model = step_models.make(args.model, tf_keras)
    callbacks = []
    if kind == "tfmot":
        schedule = sparsity.PolynomialDecay(
            0.0, 0.5, 0, 10**6, frequency=args.update_every
        )
        model = sparsity.prune_low_magnitude(model, schedule)
        callbacks = [sparsity.UpdatePruningStep()]
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(1e-3), loss=loss)
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()

    def step(x, y):
        for callback in callbacks:
            callback.on_train_batch_begin(0)
        model.train_on_batch(x, y)

    return step


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="lenet5", choices=list(step_models.SHAPES)
    )
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--update_every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    args = arguments()
    rng = np.random.default_rng(args.seed)
    batch_size = step_models.BATCH_SIZES[args.model]
    data = step_timing.batches(step_models.SHAPES[args.model], batch_size, rng)
    steps = [trainee(kind, args) for kind in KINDS * args.copies]
    times = step_timing.seconds(steps, data, args.rounds, args.warmup)
    times = step_timing.groups(times, len(KINDS))
    floor, *_ = step_timing.ratio(times, 1, 0, rng)
    ratio, low, high = step_timing.ratio(times, 2, 0, rng)
    amortised = times[:, 2].mean() / times[:, 0].mean()
    print(
        f"Batch {batch_size}, adam, seed {args.seed}, {args.copies} copies, "
        f"{args.rounds} rounds, {platform.machine()} with {os.cpu_count()} "
        "cores\n"
        "model     library   ms/step  floor   step  95 % interval  amortised\n"
        f"{args.model:8}  tfmot    {1e3 * np.median(times[:, 0]):8.2f}  "
        f"{floor:.3f}  {ratio:.3f}  {low:.3f} - {high:.3f}  {amortised:9.3f}"
    )


if __name__ == "__main__":
    main()
