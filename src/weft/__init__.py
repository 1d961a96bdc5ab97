"""Weft: a declarative deep-learning compiler that makes a whole experiment one typed graph."""
