"""The `train` block, elaborated: what it states, and what that means in a step and in evaluation.

block.py                   its statements
   |     --> settings.py   what is known before any tensor: data, precision, counts of steps
   |     --> stopping.py   when to stop early
   v
passes.py                  names, losses and metrics: evaluated to train, and to evaluate
   |     --> groups.py     which parameters an optimiser moves
   v
objectives.py              the losses in order, with their optimisers, and the rules of a step
   v
experiment.py              all of it, for the compiler
"""
