"""The passes, and what they are made of; `weft.compiler.pipeline` puts them in order.

graph -> graph     bind, pack, decompose, cleanup, loops, motion (vectorise), and
simplify (algebra, movement, parts, fold); widen, for the reference
graph -> groups    attention (attention_products), fuse, recompute
groups -> plan     memory (uses, views, schedule, arena, turn); plan_text prints it
plan -> kernels    kernels (elements, contractions, attention_kernels, turn_kernels, rows,
collapse)
"""
