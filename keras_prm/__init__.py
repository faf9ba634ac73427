"""Structured pruning for Keras 3: ADMM, purification, unused path removal.

Train a model into structured sparsity, rebuild it physically smaller,
provably unchanged, and ship it to a phone.
"""

from keras_prm import pipeline as pipeline  # a folder like the others
from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.admm.rho_schedules import RhoStages
from keras_prm.analysis.costs import costs
from keras_prm.analysis.explain import explain
from keras_prm.budgets.budget import Budget
from keras_prm.inlining.as_functional import as_functional
from keras_prm.litert.benchmark import benchmark
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.litert.timing import latency
from keras_prm.lowering.auto import AutoLowering
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import KernelMask
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import masks_of
from keras_prm.pruning.purify import purify
from keras_prm.pruning.recalibrate import recalibrate
from keras_prm.pruning.thresholds import Thresholds
from keras_prm.rebuild.strip import strip
from keras_prm.reports.benchmark import BenchmarkReport
from keras_prm.reports.benchmark import BenchmarkRow
from keras_prm.reports.certificate import Certificate
from keras_prm.reports.costs import Costs
from keras_prm.reports.explanation import Explanation
from keras_prm.reports.export import ExportReport
from keras_prm.reports.plan_costs import PlanCosts
from keras_prm.reports.purification import PurificationReport
from keras_prm.reports.strip import StripReport
from keras_prm.rules.base import Rule
from keras_prm.rules.registry import register_rule
from keras_prm.training.carry_optimizer import carry_optimizer
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.iterative_pruning import IterativePruning
from keras_prm.training.mask_constraint import enforced
from keras_prm.training.mask_constraint import release_masks
from keras_prm.training.progress import ADMMProgress
from keras_prm.training.retrain_schedule import retrain_schedule
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.training.tensorboard import SparsityTensorBoard
from keras_prm.verification.verify import verify
from keras_prm.version import __version__

__all__ = [
    "ADMMProgress",
    "ADMMWrapper",
    "AtomicCheckpoint",
    "AutoLowering",
    "BenchmarkReport",
    "BenchmarkRow",
    "Budget",
    "Certificate",
    "Costs",
    "Explanation",
    "ExportReport",
    "GatherColumns",
    "IterativePruning",
    "KernelMask",
    "LiteRTModel",
    "Masks",
    "PlanCosts",
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
    "retrain_schedule",
    "scores",
    "strip",
    "verify",
]
