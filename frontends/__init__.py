"""The ways into the graph: the language, its library, and other formats."""
