"""What stands beside `fit`: callbacks, and what a training leaves behind.

In reading order:

    trainers           which network is meant, where a model trains others
    mask_constraint    keeping masked weights at zero inside of the step
    structured_mask    `StructuredMask`
    retrain_schedule   `retrain_schedule`: the learning rate after pruning
    iterative_pruning  `IterativePruning`
    progress           `ADMMProgress`
    tensorboard        `SparsityTensorBoard`
    checkpoint_files   files that a killed process leaves whole
    training_settings  what a script may change between its runs
    checkpoint_state   all that a training goes on from
    checkpoint         `AtomicCheckpoint`
    optimizer_slots    which variables of an optimizer belong to which weight
    carry_optimizer    `carry_optimizer`: training on after `strip`
"""
