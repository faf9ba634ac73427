"""Plans that meet a budget.

In reading order:

    budget       `Budget`: what a model may cost
    problem      what an allocation decides: widths, bounds, floors
    allocations  who keeps how much: functions from a problem to numbers
    candidates   small models of plans, exported and measured
    measured     from measurements to bounds on what is analytic
    planning     from a budget to a plan
"""
