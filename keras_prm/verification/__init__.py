"""The proof that a smaller model is the same; it does not use what it proves.

In reading order:

    round_trip_worker  a process that loads saved models and knows Keras alone
    round_trips        saving models and loading them over there
    verify             `verify`
"""
