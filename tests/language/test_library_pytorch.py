"""Every function and layer of PyTorch that Weft has, and the stored rows that compare the two."""

from __future__ import annotations

import pytest

from language.elaborated import fixture_names
from language.layer_fixtures import agrees

FILE = "pytorch"

# Cases of make_pytorch.py, as Weft says them.
CASES = {
    "max_pool_volume": "max_pool(x, [2, 3, 2], stride = [1, 2, 2])",
    "average_pool_line": "average_pool(x, 3, stride = 2)",
    "average_pool_volume": "average_pool(x)",
    "adaptive_average_pool_volume": "adaptive_average_pool(x, [2, 3, 4])",
    "adaptive_max_pool_line": "adaptive_max_pool(x, 3)",
    "adaptive_max_pool_volume": "adaptive_max_pool(x, [3, 2, 1])",
    "max_unpool_line": "max_unpool(y, x)",
    "max_unpool_volume": "max_unpool(y, x, [2, 3, 2])",
    "pad_reflect_line": "pad_reflect(x, [[2, 1]])",
    "pad_reflect_volume": "pad_reflect(x, 1)",
    "pad_replicate_line": "pad_replicate(x, [[2, 1]])",
    "pad_replicate_volume": "pad_replicate(x, 1)",
    "pad_circular_line": "pad_circular(x, [[2, 1]])",
    "pad_circular_volume": "pad_circular(x, 1)",
    "upscale_nearest_line": "upscale_nearest(x, 3)",
    "upscale_nearest_volume": "upscale_nearest(x)",
    "upscale_linear_corners_line": "upscale_linear_corners(x)",
    "batch_norm_volume": "batch_norm",
    "batch_norm_plain": "batch_norm(affine = false)",
    "instance_norm_line": "instance_norm(affine = false)",
    "instance_norm_volume": "instance_norm(affine = false)",
    "layer_norm_plain": "layer_norm(axes = 2, affine = false)",
    "standardised": "standardised(x)",
    "unit_length": "unit_length(x)",
    "squared_error": "squared_error(x, y)",
    "p_norm": "p_norm(x, 3)",
    "norm": "norm(x)",
    "l1": "l1(x)",
    "unembed": "unembed(x, y)",
    "bidirectional": "bidirectional(units = 5)",
    "stacked": "stacked(units = 5)",
}
# These give one number, or read an argument whose first axis is no batch.
WHOLE = {"unit_length", "squared_error", "p_norm", "norm", "l1", "unembed", "max_unpool_line"}
WHOLE |= {"max_unpool_volume"}

# What is called so in `torch.nn`, and its rows: FILE/NAME. Left out is what draws at random (the
# dropouts: test_library_noise.py) and what Weft has not.
PYTORCH = {
    # Activations.
    "CELU": "functions/celu functions/celu_half",
    "ELU": "library/elu library/elu_half",
    "GELU": "library/gelu library/gelu_tanh",
    "GLU": "functions/glu",
    "Hardsigmoid": "functions/hard_sigmoid",
    "Hardswish": "functions/hard_swish",
    "Hardtanh": "functions/hard_tanh functions/hard_tanh_wide",
    "Identity": "functions/identity",
    "LeakyReLU": "library/leaky_relu library/leaky_relu_2",
    "LogSigmoid": "functions/log_sigmoid",
    "LogSoftmax": "library/log_softmax library/log_softmax_middle library/log_softmax_large",
    "Mish": "functions/mish",
    "PReLU": "functions/prelu functions/prelu_per_channel",
    "ReLU": "library/relu",
    "ReLU6": "functions/relu6",
    "SELU": "functions/selu",
    "SiLU": "library/silu",
    "Sigmoid": "library/sigmoid",
    "Softmax": "library/softmax library/softmax_first library/softmax_large",
    "Softmin": "functions/softmin functions/softmin_first",
    "Softplus": "library/softplus",
    "Softsign": "functions/softsign",
    "Tanh": "library/tanh",
    # Losses and distances.
    "BCELoss": "library/bce_probabilities",
    "BCEWithLogitsLoss": "library/bce library/bce_large library/bce_one",
    "CosineEmbeddingLoss": "functions/cosine_embedding",
    "CosineSimilarity": "layers/cosine_similarity",
    "CrossEntropyLoss": "library/cross_entropy library/cross_entropy_soft "
    "library/cross_entropy_large library/cross_entropy_one_hot functions/cross_entropy_smooth "
    "functions/cross_entropy_smooth_soft",
    "GaussianNLLLoss": "functions/gaussian_nll functions/gaussian_nll_full",
    "HuberLoss": "library/huber",
    "KLDivLoss": "functions/kl_divergence functions/kl_of_logits",
    "L1Loss": "library/mae",
    "MSELoss": "library/mse pytorch/squared_error",
    "MultiMarginLoss": "functions/multi_hinge",
    "NLLLoss": "functions/nll",
    "PairwiseDistance": "functions/distance",
    "SmoothL1Loss": "functions/smooth_l1",
    "SoftMarginLoss": "functions/log_loss",
    "TripletMarginLoss": "functions/triplet",
    # Normalisations.
    "BatchNorm1d": "library/batch_norm_flat",
    "BatchNorm2d": "library/batch_norm library/batch_norm_eval pytorch/batch_norm_plain",
    "BatchNorm3d": "pytorch/batch_norm_volume",
    "GroupNorm": "layers/group_norm layers/group_norm_flat",
    "InstanceNorm1d": "pytorch/instance_norm_line",
    "InstanceNorm2d": "layers/instance_norm layers/instance_norm_plain",
    "InstanceNorm3d": "pytorch/instance_norm_volume",
    "LayerNorm": "library/layer_norm library/layer_norm_two pytorch/layer_norm_plain "
    "pytorch/standardised",
    "LocalResponseNorm": "layers/local_response_norm_mean layers/local_response_norm_even",
    "RMSNorm": "layers/rms_norm layers/rms_norm_two",
    "utils.parametrizations.spectral_norm": "layers/dense_spectral_norm "
    "layers/dense_spectral_norm_eval layers/conv_spectral_norm",
    "utils.parametrizations.weight_norm": "layers/dense_weight_norm layers/conv_weight_norm",
    # Linear layers, convolutions, windows.
    "Bilinear": "layers/bilinear",
    "Conv1d": "library/conv_line library/conv_depthwise",
    "Conv2d": "library/conv library/conv_valid library/conv_stride library/conv_dilation "
    "library/conv_groups layers/conv_sides layers/conv_reflect layers/separable_conv",
    "Conv3d": "layers/conv_volume",
    "ConvTranspose1d": "layers/conv_transposed_line layers/conv_transposed_cut",
    "ConvTranspose2d": "layers/conv_transposed layers/conv_transposed_settings",
    "ConvTranspose3d": "layers/conv_transposed_volume",
    "Embedding": "library/embedding",
    "Flatten": "library/flatten",
    "Linear": "library/dense layers/dense_transposed pytorch/unembed",
    "PixelShuffle": "layers/pixel_shuffle",
    "PixelUnshuffle": "layers/pixel_unshuffle",
    "Unfold": "layers/windows",
    # Padding and resizing.
    "CircularPad1d": "pytorch/pad_circular_line",
    "CircularPad2d": "layers/pad_circular",
    "CircularPad3d": "pytorch/pad_circular_volume",
    "ReflectionPad1d": "pytorch/pad_reflect_line",
    "ReflectionPad2d": "layers/pad_reflect",
    "ReflectionPad3d": "pytorch/pad_reflect_volume",
    "ReplicationPad1d": "pytorch/pad_replicate_line",
    "ReplicationPad2d": "layers/pad_replicate",
    "ReplicationPad3d": "pytorch/pad_replicate_volume",
    "Upsample": "layers/upscale_nearest layers/upscale_linear layers/upscale_linear_line "
    "layers/upscale_linear_volume layers/upscale_linear_corners pytorch/upscale_nearest_line "
    "pytorch/upscale_nearest_volume pytorch/upscale_linear_corners_line",
    # Pooling.
    "AdaptiveAvgPool1d": "layers/adaptive_average_pool_line",
    "AdaptiveAvgPool2d": "layers/adaptive_average_pool library/global_average_pool",
    "AdaptiveAvgPool3d": "pytorch/adaptive_average_pool_volume",
    "AdaptiveMaxPool1d": "pytorch/adaptive_max_pool_line",
    "AdaptiveMaxPool2d": "layers/adaptive_max_pool library/global_max_pool",
    "AdaptiveMaxPool3d": "pytorch/adaptive_max_pool_volume",
    "AvgPool1d": "pytorch/average_pool_line",
    "AvgPool2d": "library/average_pool library/average_pool_padded library/average_pool_zeros",
    "AvgPool3d": "pytorch/average_pool_volume",
    "MaxPool1d": "library/max_pool_line",
    "MaxPool2d": "library/max_pool library/max_pool_overlap library/max_pool_same",
    "MaxPool3d": "pytorch/max_pool_volume",
    "MaxUnpool1d": "pytorch/max_unpool_line",
    "MaxUnpool2d": "layers/max_unpool",
    "MaxUnpool3d": "pytorch/max_unpool_volume",
    # Sequences.
    "GRU": "recurrent/gru recurrent/gru_within recurrent/gru_from",
    "LSTM": "recurrent/lstm recurrent/lstm_within recurrent/lstm_from pytorch/bidirectional "
    "pytorch/stacked",
    "MultiheadAttention": "layers/multi_head layers/multi_head_masked layers/multi_head_padded "
    "layers/self_attention_causal",
    "RNN": "recurrent/rnn recurrent/rnn_within recurrent/rnn_from recurrent/rnn_relu",
    "TransformerDecoderLayer": "layers/transformer_decoder layers/transformer_decoder_prenorm",
    "TransformerEncoderLayer": "layers/transformer_encoder layers/transformer_encoder_prenorm",
    "functional.scaled_dot_product_attention": "layers/attention layers/attention_masked "
    "layers/attention_unscaled layers/attention_causal",
}


@pytest.mark.parametrize("name", PYTORCH)
def test_what_pytorch_has_too_has_stored_rows(name: str) -> None:
    for row in PYTORCH[name].split():
        file, _, case = row.partition("/")
        assert case in fixture_names(file), row


def test_every_stored_case_is_compared() -> None:
    assert fixture_names(FILE) == set(CASES)
    known = {row.partition("/")[2] for rows in PYTORCH.values() for row in rows.split()}
    assert set(CASES) - known == {"p_norm", "norm", "l1", "unit_length"}, "torch.linalg's"


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    if not (symbolic and name in WHOLE):
        agrees(name, CASES[name], symbolic, file=FILE)


def test_pytorch_has_what_the_table_names() -> None:
    """Where PyTorch is installed, the names of the table are its own."""
    torch = pytest.importorskip("torch")
    for name in PYTORCH:
        place = torch.nn
        for part in name.split("."):
            place = getattr(place, part)
        assert callable(place)
