"""The Weft language: grammar, syntax tree, elaboration to a graph, and formatter."""
