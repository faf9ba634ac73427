"""Choosing weights and setting them to zero, in place: all at once by a plan
(`hard_prune`), or as far as the data allow (`purify`).

In reading order:

    masks          `Masks`: which weights are kept; `masks_of` reads a model
    scores         what a filter or a column is worth: `l1_norm`, `taylor`, ...
    gradients      the gradients of a model's loss, a batch at a time
    score_kernels  asking a score about the kernels of a model
    selection      which filters and columns stay, by a score
    recalibrate    `recalibrate`: BatchNormalization's statistics anew
    hard_prune     `hard_prune`
    thresholds     `Thresholds`: what purification calls small
    purify_sweeps  the sweeps of purification over the kernels
    sample_means   which metrics are means over samples
    drops          scores that a model is held to, and how far they fall
    held_out       scoring on data, a part of which the search does not see
    purify_search  how far thresholds rise within a budget
    purify         `purify`
"""
