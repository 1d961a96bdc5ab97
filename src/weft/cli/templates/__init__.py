"""The specs that `weft new` writes: complete, commented, and ready to train."""
