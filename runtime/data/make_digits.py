"""Makes `digits.npz`, the embedded digits, from scikit-learn's copy of the same data.

python -m weft.runtime.data.make_digits FILE     (needs the `data` extra)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main(path: Path) -> None:
    """Write the images (uint8, 0 to 16) and labels (uint8) to a compressed `.npz` file."""
    from sklearn.datasets import load_digits

    data = load_digits()
    image, target = data.images.astype(np.uint8), data.target.astype(np.uint8)
    if not (image == data.images).all():
        raise ValueError("pixels are no longer whole numbers")
    np.savez_compressed(path, image=image, target=target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
