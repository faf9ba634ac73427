"""Do two models compute the same? Inputs to try, and when outputs count as
equal.

In reading order:

    input_domains  what the first layers of a model take: ranges, indices, words
    random_inputs  random inputs that a model can take
    index_checks   whether a user's indices are in the tables of a model
    model_state    what a model remembers, kept while others look at it
    tolerances     the one rule by which outputs count as equal
    probing        the inputs to compare on, and what a model makes of them
    number_checks  whether two functions compute the same numbers
"""
