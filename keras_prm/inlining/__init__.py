"""`as_functional`: what a subclassed model or a block of layers calls becomes
part of one flat model.

In reading order:

    symbolic_inputs  what a model is run on
    training_flags   calls told whether they train by Keras, or by the layer
    symbolic_call    the calls that a `call` makes, and whether they are all
    replay_check     whether these calls compute the same numbers as the `call`
    inliner          looking into blocks, and into blocks within them
    as_functional    `as_functional`
"""
