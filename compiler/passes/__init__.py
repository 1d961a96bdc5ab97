"""The graph passes, one file each; `weft.compiler.pipeline` puts them in order."""
