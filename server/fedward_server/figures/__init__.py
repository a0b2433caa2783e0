"""The figures of finished runs: from evaluations to blocks of numbers, curves and drawings.

What a hub shows of a run and what the report of a simulation shows are made here alike. Drawing takes matplotlib, which
`drawing` and `plots` alone import: import them where something is drawn.
"""
