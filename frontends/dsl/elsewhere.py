"""Names that other libraries use, and what stands for each in Weft: the hints of last resort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def _table(rows: Mapping[str, str]) -> Mapping[str, str]:
    """By name, from rows of names that share one answer."""
    return {name: answer for names, answer in rows.items() for name in names.split()}


FUNCTIONS = _table(
    {
        "linear fc fullyconnected": "a layer of weights is `dense(units)`",
        "conv1d conv2d conv3d convolution": "it is `conv(channels)`, over any number of axes",
        "maxpool maxpool1d maxpool2d maxpooling maxpooling2d": "it is `max_pool`",
        "avgpool avgpool1d avgpool2d meanpool averagepooling2d": "it is `average_pool`",
        "batchnorm batchnorm1d batchnorm2d batchnormalization": "it is `batch_norm`",
        "layernorm layernormalization": "it is `layer_norm`",
        "groupnorm groupnormalization": "it is `group_norm`",
        "instancenorm instancenorm1d instancenorm2d": "it is `instance_norm`",
        "convtranspose convtranspose1d convtranspose2d deconv": "it is `conv_transposed`",
        "upsample interpolate upsampling2d": "it is `upscale_nearest` or `upscale_linear`",
        "multiheadattention mha": "it is `multi_head_attention`, or `self_attention`",
        "scaleddotproductattention sdpa": "it is `attention`",
        "lrn localresponsenorm": "it is `local_response_norm`, or `local_response_norm_mean`",
        "bcewithlogits bcewithlogitsloss bceloss binarycrossentropy": "it is `bce`, of logits",
        "crossentropyloss softmaxcrossentropy": "it is `cross_entropy`, of logits",
        "nllloss": "it is `nll` of log-probabilities, or `cross_entropy` of logits",
        "kldiv kldivloss kl": "it is `kl_divergence`",
        "smoothl1loss": "it is `smooth_l1`",
        "dropout1d dropout2d dropout3d spatialdropout2d": "it is `dropout_channels`",
        "droppath": "it is `drop_path`",
        "mseloss meansquarederror squarederror l2loss": "it is `mse`",
        "l1loss meanabsoluteerror": "it is `mae`",
        "xavier xavieruniform glorot": "it is `glorot_uniform` or `glorot_normal`",
        "kaiming kaimingnormal kaiminguniform he": "it is `he_normal` or `he_uniform`",
        "randn randnlike randomnormal": "it is `normal(shape)`",
        "rand randlike randomuniform random": "it is `uniform(shape)`",
        "matmul mm bmm dot": "a product of matrices is written `a @ b`",
        "pow power square": "a power is written `x^2`",
        "view resize": "it is `reshape(x, shape)`",
        "squeeze": "`x[..., 0]` drops an axis of size 1",
        "unsqueeze expanddims": "`reshape(x, shape)` adds an axis of size 1",
        "permute swapaxes": "it is `transpose(x, axes)`",
        "cat concatenate hstack": "it is `concat`",
        "detach nograd": "it is `stop_gradient(x)`",
        "clamp clip": "write `min(max(x, low), high)`",
        "ln": "the natural logarithm is `log`",
        "var": "it is `variance(x, over)`",
        "std stddev": "write `sqrt(variance(x, over))`",
        "expit": "it is `sigmoid`",
        "none null": "leave the argument out, or give it a value",
        "torch nn np numpy jax jnp tf keras math": "functions have no module: `relu(x)`",
        "print": "`metrics = { name: value }` in `train` reports a number",
        "self": "a layer's parameters and arguments go by their names alone",
    }
)

TYPES = _table(
    {
        "float32 single tensor": "f32",
        "float64 double": "f64",
        "float16 fp16 half": "f16",
        "bfloat16": "bf16",
        "fp32": "f32",
        "fp64": "f64",
        "int8": "i8",
        "int32": "i32",
        "int64 long": "i64",
        "uint8 byte": "u8",
        "uint32": "u32",
        "uint64": "u64",
        "integer": "int",
        "str text": "string",
        "boolean": "bool",
        "label labels category categorical": "class",
        "array tuple": "list",
        "time steps epochs": "duration",
        "callable": "function",
    }
)

ARGUMENTS = _table(
    {
        "axis axes dim dims": "over",
        "outfeatures outputs size width hidden": "units",
        "filters outchannels": "channels",
        "kernelsize window": "kernel",
        "poolsize": "size",
        "strides": "stride",
        "learningrate": "lr",
        "weightdecay": "decay",
        "momentum rho": "beta",
        "epsilon": "eps",
        "p rate prob": "drop",
        "usebias": "bias",
        "initializer kernelinit weightinit": "init",
        "negativeslope": "slope",
        "maxnorm threshold clipvalue": "limit",
        "numembeddings vocabulary vocabsize": "entries",
        "warmupsteps warmupepochs": "warmup",
        "initiallr baselr": "base",
        "gamma": "factor",
        "batchsize": "size",
        "droplast": "drop_last",
    }
)

SETTINGS = _table(
    {
        "lr learningrate": "the learning rate is the optimiser's: `with adam(lr = 1e-3)`",
        "batch batchsize shuffle": "batches are made by the data: `data = digits.batch(64)`",
        "optimizer optimiser weightdecay": "an objective has its optimiser: `with adamw(1e-3)`",
        "loss objective criterion": "write `minimize cross_entropy(net(x), y) with adam(1e-3)`",
        "model net network": "a model is declared outside: `model net = layer(...)`",
        "schedule scheduler warmup": "a schedule takes the place of the rate: `adam(cosine(1e-3))`",
        "backend device gpu": "what runs it is chosen on the command line: `--backend`",
        "patience earlystopping early": "write `stop = early(valid.loss, patience = 5)`",
        "split valid validation test": "the parts are the data's: `split = { train: 80%, ... }`",
        "ema swa": "write `average = ema(0.999)`",
        "gradclip gradientclip clipnorm": "write `clip = global_norm(1.0)`",
        "maxnorm constraint constraints": "write `constrain = max_norm(3)`",
        "dtype": "write `precision = f32`",
        "amp autocast mixedprecision": "write `precision = bf16`",
        "gradscaler gradscale scale": "write `loss_scale = 1024`, with `precision = f16`",
        "metric": "write `metrics = { accuracy: accuracy(net(x), y) }`",
        "regularizer l2 l1": "add it to the objective: `... + 1e-4 * l2(net.weights)`",
    }
)


# Arguments that a relative of the function has.
RELATIVES = {
    **dict.fromkeys(
        (("sgd", "momentum"), ("sgd", "beta"), ("sgd", "nesterov")),
        "`momentum` and `nesterov` are optimisers of their own",
    ),
    **dict.fromkeys(
        (("adam", "weight_decay"), ("adam", "decay"), ("adam", "wd")), "`adamw` has a `decay`"
    ),
}


def elsewhere(name: str, table: Mapping[str, str]) -> str | None:
    """What the table says of a name, however it is spelt: `BatchNorm2d`, `batch_norm_2d`."""
    return table.get(name.replace("_", "").lower())


def argument_elsewhere(name: str, known: Iterable[str]) -> str | None:
    """The argument of this function that has the meaning of `name` in other libraries."""
    found = elsewhere(name, ARGUMENTS)
    return found if found in set(known) else None
