"""What each function found: frozen records that print themselves.

In reading order:

    base          what all reports can do
    tables        tables of text that are Markdown, too
    pictures      drawing, where matplotlib is installed
    costs         `Costs`: weights, by three ways of counting, and MACs
    plan_costs    `PlanCosts`: what a plan will leave of a model
    explanation   `Explanation`, of `explain`
    purification  `PurificationReport`, of `purify`
    strip         `StripReport`, of `strip`
    certificate   `Certificate`, of `verify`
    export        `ExportReport`, of `export_litert`
    benchmark     `BenchmarkReport`, of `benchmark`
"""
