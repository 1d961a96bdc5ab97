"""Makes the embedded data sets from scikit-learn's copies of the same data.

python -m weft.runtime.data.make_embedded FOLDER     (needs the `data` extra)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def digits(path: Path) -> None:
    """Write the images (uint8, 0 to 16) and labels (uint8) to a compressed `.npz` file."""
    from sklearn.datasets import load_digits

    data = load_digits()
    image, target = data.images.astype(np.uint8), data.target.astype(np.uint8)
    if not (image == data.images).all():
        raise ValueError("pixels are no longer whole numbers")
    np.savez_compressed(path, image=image, target=target)


def diabetes(path: Path) -> None:
    """Write the measurements (float32, scaled) and the progression (uint16)."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    target = data.target.astype(np.uint16)
    if not (target == data.target).all():
        raise ValueError("progressions are no longer whole numbers")
    np.savez_compressed(path, features=data.data.astype(np.float32), target=target)


if __name__ == "__main__":
    digits(Path(sys.argv[1]) / "digits.npz")
    diabetes(Path(sys.argv[1]) / "diabetes.npz")
