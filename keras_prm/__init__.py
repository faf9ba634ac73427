"""Structured pruning for Keras 3: ADMM, purification, unused path removal.

Train a model into structured sparsity, rebuild it physically smaller,
provably unchanged, and ship it to a phone.
"""

from keras_prm import scores
from keras_prm.benchmark_report import BenchmarkReport
from keras_prm.benchmark_report import BenchmarkRow
from keras_prm.calibration import recalibrate
from keras_prm.callbacks import StructuredMask
from keras_prm.carrying import carry_optimizer
from keras_prm.checkpoints import AtomicCheckpoint
from keras_prm.column_layers import GatherColumns
from keras_prm.costs import Costs
from keras_prm.costs import costs
from keras_prm.enforcing import enforced
from keras_prm.enforcing import release_masks
from keras_prm.explanation import Explanation
from keras_prm.explanation import explain
from keras_prm.export import export_litert
from keras_prm.export_report import ExportReport
from keras_prm.functional_form import as_functional
from keras_prm.iterative import IterativePruning
from keras_prm.layer_rules import register_rule
from keras_prm.litert import LiteRTModel
from keras_prm.litert_benchmark import benchmark
from keras_prm.lowering_timing import AutoLowering
from keras_prm.masks import Masks
from keras_prm.masks import masks_of
from keras_prm.optimizers import ADMMWrapper
from keras_prm.penalties import ResidualBalancing
from keras_prm.penalties import RhoStages
from keras_prm.plans import SparsityPlan
from keras_prm.progress import ADMMProgress
from keras_prm.pruning import hard_prune
from keras_prm.purification import purify
from keras_prm.rebuild import strip
from keras_prm.reports import PurificationReport
from keras_prm.reports import StripReport
from keras_prm.sites import Rule
from keras_prm.structures import KernelMask
from keras_prm.tensorboard import SparsityTensorBoard
from keras_prm.thresholds import Thresholds
from keras_prm.timing import latency
from keras_prm.verification import Certificate
from keras_prm.verification import verify
from keras_prm.version import __version__

__all__ = [
    "ADMMProgress",
    "ADMMWrapper",
    "AtomicCheckpoint",
    "AutoLowering",
    "BenchmarkReport",
    "BenchmarkRow",
    "Certificate",
    "Costs",
    "Explanation",
    "ExportReport",
    "GatherColumns",
    "IterativePruning",
    "KernelMask",
    "LiteRTModel",
    "Masks",
    "PurificationReport",
    "ResidualBalancing",
    "RhoStages",
    "Rule",
    "SparsityPlan",
    "SparsityTensorBoard",
    "StripReport",
    "StructuredMask",
    "Thresholds",
    "__version__",
    "as_functional",
    "benchmark",
    "carry_optimizer",
    "costs",
    "enforced",
    "explain",
    "export_litert",
    "hard_prune",
    "latency",
    "masks_of",
    "purify",
    "recalibrate",
    "register_rule",
    "release_masks",
    "scores",
    "strip",
    "verify",
]
