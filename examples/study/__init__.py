"""Experiments: networks pruned by recipe, of several seeds, in tables.

A recipe is a JSON file; results are folders that are whole or made anew, each
with a `summary.json` that says from what it was made. Two kinds of study
stand on one base: a *frontier* prunes a small network by many methods to many
points; *phases* take a large one to a few, and go on where they were cut off.

The base, in reading order:

    recipe        what JSON files say; trainings and points
    result_files  folders that are whole or made anew
    measuring     what a model holds, and how well it does
    claims        what a summary says of the files beside it
    distillation  learning from the dense network's answers
    model_forms   a network as trained, as kept, and the mean of two
    training      one network trained, by either kind of recipe
    work          one recipe, one data set, one seed, one folder
    over_seeds    medians and ranges

A frontier:

    frontier_recipe    points, chains, widths
    textbook_admm      ADMM with two buffers, another projection
    frontier_methods   ways to a sparse network; what they are compared with
    frontier_results   each result made once
    frontier_schedule  which results side by side
    frontier_report    tables and the picture

Phases:

    phase_recipe   one network, one way of training it, several points
    phase_work     what one phase leaves, and the next one reads
    phase_pruning  ways from a dense network to a sparse one
    phases         dense, teach, prune, retrain, purify, strip, export, compare
    phase_report   tables of points and stages

Commands, such as `python -m examples.study.frontier`: `frontier`,
`frontier_purification`, `frontier_tfmot` and `phase_report`; `phase_command`
is that of `examples.alexnet` and `examples.resnet18_cifar10`.
`resnet18_torch_pruning.py` runs without Keras.
"""
