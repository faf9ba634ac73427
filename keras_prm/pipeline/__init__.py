"""The stages together.

In reading order:

    report  what each stage of pruning did: one table, one picture
"""
