"""Runs exported models in onnxruntime, and compares what they give with the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime

Arrays = Mapping[str, np.ndarray]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(model: onnx.ModelProto, values: Arrays) -> dict[str, np.ndarray]:
    found = session(model)
    given_inputs = {i.name: values[i.name] for i in found.get_inputs()}
    names = [o.name for o in found.get_outputs()]
    return dict(zip(names, found.run(None, given_inputs), strict=True))


def compare(found: Arrays, expected: Arrays, rate: float) -> None:
    """Equal to a part in `rate` of each number, and of the largest for those close to 0."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (value.dtype, value.shape), name
        finite = np.abs(value[np.isfinite(value)].astype(np.float64))
        np.testing.assert_allclose(
            got.astype(np.float64),
            value.astype(np.float64),
            rtol=rate,
            atol=rate / 10 * finite.max(initial=0),
            err_msg=name,
        )
