"""Prunes and strips models of KerasHub, whose blocks hide what is inside.

    .venv/bin/python -m benchmarks.kerashub --table=docs/kerashub.md

Needs `pip install keras-hub`. Each model gets random weights, none of them
zero, and a plan that removes half of its filters, once as it is and once as
`keras_prm.as_functional` rewrites it. Nothing is downloaded.
"""

import itertools
import os
import pathlib
import platform
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import keras_prm
from benchmarks import application_checks
from benchmarks import application_models
from keras_prm.reports import tables

FLAGS = flags.FLAGS
flags.DEFINE_list("models", [], "Names to run; all if none is given.")
flags.DEFINE_integer("seed", 0, "Seed of weights and inputs.")
flags.DEFINE_string("table", None, "Markdown file to write a table to.")

IMAGES = {"image_shape": (224, 224, 3)}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_strides": [1, 2, 2, 2],
    **IMAGES,
}
TEXT = {"vocabulary_size": 30522, "max_sequence_length": 128}
TRANSFORMER = TEXT | {
    "num_layers": 4,
    "num_heads": 8,
    "hidden_dim": 512,
    "intermediate_dim": 2048,
}
MOBILENET = {
    "stackwise_expansion": [
        [40, 56],
        [64, 144, 144],
        [72, 72],
        [144, 288, 288],
    ],
    "stackwise_num_blocks": [2, 3, 2, 3],
    "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
    "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    "stackwise_se_ratio": [
        [None, None],
        [0.25, 0.25, 0.25],
        [0.3, 0.3],
        [0.3, 0.25, 0.25],
    ],
    "stackwise_activation": [
        ["relu", "relu"],
        ["hard_swish", "hard_swish", "hard_swish"],
        ["hard_swish", "hard_swish"],
        ["hard_swish", "hard_swish", "hard_swish"],
    ],
    "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
    "output_num_filters": 288,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "input_num_filters": 16,
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "squeeze_and_excite": 0.5,
    "last_layer_filter": 288,
    **IMAGES,
}
EFFICIENTNET = {
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "input_shape": (224, 224, 3),
}
HGNET = {
    "depths": [1, 1, 2, 1],
    "embedding_size": 32,
    "hidden_sizes": [128, 512, 1024, 2048],
    "stem_channels": [3, 32, 48],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "stackwise_stage_filters": [
        (48, 48, 128, 1, 6, 3),
        (128, 96, 512, 1, 6, 3),
        (512, 192, 1024, 2, 6, 5),
        (1024, 384, 2048, 1, 6, 5),
    ],
    "apply_downsample": [False, True, True, True],
    "use_lightweight_conv_block": [False, False, True, True],
    **IMAGES,
}


def builders():
    """dict from a name to a function that makes a model."""
    import keras_hub

    hub = keras_hub.models

    def classifier(kind, backbone):
        return lambda: getattr(hub, f"{kind}ImageClassifier")(
            backbone=backbone(), preprocessor=None, num_classes=1000
        )

    def resnet(kind, blocks, **more):
        return lambda: hub.ResNetBackbone(
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=blocks,
            block_type=kind,
            **RESNET | more,
        )

    resnet18 = resnet("basic_block", [2, 2, 2, 2])
    return {
        "ResNet18": classifier("ResNet", resnet18),
        "ResNet50 V2": classifier(
            "ResNet",
            resnet("bottleneck_block", [3, 4, 6, 3], use_pre_activation=True),
        ),
        "MobileNetV3": classifier(
            "MobileNet", lambda: hub.MobileNetBackbone(**MOBILENET)
        ),
        "EfficientNetV2": classifier(
            "EfficientNet", lambda: hub.EfficientNetBackbone(**EFFICIENTNET)
        ),
        "DenseNet121": classifier(
            "DenseNet",
            lambda: hub.DenseNetBackbone(
                stackwise_num_repeats=[6, 12, 24, 16], **IMAGES
            ),
        ),
        "VGG16": classifier(
            "VGG",
            lambda: hub.VGGBackbone(
                stackwise_num_repeats=[2, 2, 3, 3, 3],
                stackwise_num_filters=[64, 128, 256, 512, 512],
                **IMAGES,
            ),
        ),
        "CSPDarkNet": classifier(
            "CSPNet",
            lambda: hub.CSPNetBackbone(
                stem_filters=32,
                stem_kernel_size=3,
                stem_strides=1,
                stackwise_depth=[1, 2, 4],
                stackwise_strides=[2, 2, 2],
                stackwise_num_filters=[64, 128, 256],
                block_type="dark_block",
                stage_type="dark",
                **IMAGES,
            ),
        ),
        "HGNetV2": lambda: hub.HGNetV2Backbone(**HGNET),
        "DeepLabV3+": lambda: hub.DeepLabV3ImageSegmenter(
            backbone=hub.DeepLabV3Backbone(
                image_encoder=resnet18(),
                projection_filters=48,
                low_level_feature_key="P2",
                spatial_pyramid_pooling_key="P5",
                upsampling_size=8,
                dilation_rates=[6, 12, 18],
                **IMAGES,
            ),
            preprocessor=None,
            num_classes=21,
        ),
        "ViT": classifier(
            "ViT",
            lambda: hub.ViTBackbone(
                patch_size=16,
                num_layers=4,
                num_heads=3,
                hidden_dim=192,
                mlp_dim=768,
                **IMAGES,
            ),
        ),
        "BERT": lambda: hub.BertTextClassifier(
            backbone=hub.BertBackbone(**TRANSFORMER),
            preprocessor=None,
            num_classes=3,
        ),
        "BERT, masked words": lambda: hub.BertMaskedLM(
            backbone=hub.BertBackbone(**TRANSFORMER), preprocessor=None
        ),
        "DistilBERT": lambda: hub.DistilBertBackbone(**TRANSFORMER),
        "RoBERTa": lambda: hub.RobertaBackbone(**TRANSFORMER),
        "Electra": lambda: hub.ElectraBackbone(
            vocab_size=TEXT["vocabulary_size"],
            embedding_dim=128,
            **{k: v for k, v in TRANSFORMER.items() if k[:5] != "vocab"},
        ),
        "FNet": lambda: hub.FNetBackbone(
            **{k: v for k, v in TRANSFORMER.items() if k != "num_heads"}
        ),
        "GPT-2": lambda: hub.GPT2Backbone(**TRANSFORMER),
    }


def inputs_of(model, rng):
    """Four images, or four texts of 32 tokens."""

    def draw(name, x):
        shape = [4, *(size or 32 for size in x.shape[1:])]
        if "int" not in x.dtype:
            return rng.uniform(size=shape).astype("float32")
        if "mask" in name:
            return np.ones(shape, x.dtype)
        return rng.integers(0, 2 if "segment" in name else 1000, shape)

    if isinstance(model.input, dict):
        return {name: draw(name, x) for name, x in model.input.items()}
    return draw("", model.input)


def halved(model, x, rng):
    """A model of random weights, pruned by half, and what is left of it."""
    application_models.randomize(model, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing may go
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
        keras_prm.hard_prune(model, plan)
        if any(isinstance(x, layers.BatchNormalization) for x in model.layers):
            application_models.settle(model, x, rng)
        return keras_prm.strip(model)


def check(name, seed):
    """The row of one model: dict of plain values."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = builders()[name]()
    application_models.randomize(model, rng)
    x = inputs_of(model, rng)
    row = {"model": name, "parameters": model.count_params(), "closed": ""}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            flat = keras_prm.as_functional(model, x)
        except TypeError as error:
            row["closed"] = str(error).partition(":")[0]
            return row
    for warning in caught:
        if "no plan reaches: " in str(warning.message):
            row["closed"] += str(warning.message).partition("reaches: ")[2]
    small = halved(flat, x, rng)
    pairs = zip(outputs(flat, x), outputs(small, x), strict=True)
    return row | {
        "as_it_is": halved(model, x, rng).count_params(),
        "after": small.count_params(),
        "error": max(itertools.starmap(application_checks.relative, pairs)),
        "spread": max(
            application_checks.relative(y[0], y[1]) for y in outputs(flat, x)
        ),
    }


def outputs(model, x):
    """list of arrays, one for each output."""
    found = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(y) for y in found]


_HEAD = """# Models of KerasHub

Many of KerasHub's models are made of blocks, which hide what is inside. Random
weights; `SparsityPlan.uniform(model, filters=0.5)`, `hard_prune`, `strip`, of
the model as it is and of what `as_functional` makes of it. Sizes are those of
the published models or nearly; `benchmarks/kerashub.py` has them. *Error* is
the largest difference between the outputs of the masked and the stripped model
on four inputs, in proportion to the largest output, or to 1, and *spread* that
between two of the inputs. `as_functional` itself compares on the same inputs,
and raises where outputs differ. The command needs `pip install keras-hub`.
"""


def table(rows):
    """The rows as Markdown, and how they came about."""
    lines = [
        ["model", "parameters", "left, as it is", "left, opened", "error"]
        + ["spread", "not opened"]
    ]
    for row in rows:
        cells = [""] * 4
        if "after" in row:
            shares = [row[k] / row["parameters"] for k in ("as_it_is", "after")]
            cells = [f"{share:.0%}" for share in shares]
            cells += [f"{row['error']:.0e}", f"{row['spread']:.0e}"]
        parameters = f"{row['parameters']:,}"
        lines.append([row["model"], parameters, *cells, row["closed"]])
    notes = [
        f"{platform.machine()} with {os.cpu_count()} cores, Keras "
        f"{keras.__version__}, {keras.backend.backend()}, seed {FLAGS.seed}.",
        "    .venv/bin/python -m benchmarks.kerashub --table=docs/kerashub.md",
    ]
    parts = [_HEAD.rstrip(), tables.markdown(lines, pad=False), *notes]
    return "\n\n".join(parts) + "\n"


def main(argv):
    del argv
    rows = []
    for name in FLAGS.models or builders():
        rows.append(check(name, FLAGS.seed))
        print(rows[-1], flush=True)
    text = table(rows)
    if FLAGS.table:
        pathlib.Path(FLAGS.table).write_text(text)
    print(text)


if __name__ == "__main__":
    app.run(main)
