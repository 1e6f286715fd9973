"""Which small runs to buy so that a law is identified: the grids of the literature, and what the runs at hand ask for.

A design is a YAML file (``designs/*.yaml``, or a user's own): blocks of runs, each a product of choices, in relative
units. ``design_sweep`` scales it to a budget and gives the sweep.
"""
