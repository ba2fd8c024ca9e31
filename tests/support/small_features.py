"""Small features, and the losses that compare them."""

import inspect

import torch

from limbeck import losses

MAP, OTHER_MAP, VECTOR = (3, 4, 2), (4, 4, 2), (5,)

SHAPES = {
    "attention_transfer": (MAP, OTHER_MAP),
    "batch_margins": (VECTOR, (4,)),
    "cat_kd": (MAP, (3, 3, 5)),
    "correlation_congruence": (VECTOR, (4,)),
    "cosine_matrix": (VECTOR, (4,)),
    "dark_rank": (VECTOR, (4,)),
    "grad_cam": (MAP, OTHER_MAP),
    "nst": (MAP, OTHER_MAP),
    "pkt": (VECTOR, (4,)),
    "rkd_angle": (VECTOR, (4,)),
    "rkd_distance": (VECTOR, (4,)),
    "similarity_preserving": (MAP, (4, 2, 3)),
    "srrl": (VECTOR, VECTOR),
    "vkd": (VECTOR, VECTOR),
}
"""By loss, the features of one example of student and teacher; of all others, two maps of one shape."""
ELSEWHERE = {"crd", "weight_matching"}
ELSEWHERE |= {"attention_kl", "attention_mse", "hidden_cosine", "hidden_mse", "margin_mse", "relation_kl"}
ELSEWHERE |= {"fused_linear_kd"}
"""Losses with other arguments; test_contrast.py, test_losses_of_layers.py, test_encoder_losses.py and
test_fused_losses.py test them."""


STAGES, BLOCKS, TOKENS = {"layers": ["stem", "stage1"]}, {"layers": ["blocks.0", "blocks.1"]}, {"layers": "blocks.1"}
POOL, CLASS_TOKEN, LAST = {"layers": "pool"}, {"layers": "head@input"}, {"layers": "stage1"}
FEW = {"negatives": 3, "negatives_of": "others", "dimension": 5}
ON_LAYERS = {
    "activation_boundary": {"cnn": STAGES},
    "attention_transfer": {"cnn": STAGES, "vit": BLOCKS},
    "cat_kd": {"cnn": LAST},
    "correlation_congruence": {"cnn": {**POOL, "embed": 3}, "vit": CLASS_TOKEN},
    "crd": {"cnn": {**POOL, **FEW}, "vit": {**CLASS_TOKEN, **FEW}},
    "darkrank": {"cnn": POOL, "vit": CLASS_TOKEN},
    "distilbert": {"encoder": {}},
    "factor_transfer": {"cnn": {**LAST, "paraphraser_steps": 2}},
    "fsp": {"cnn": {**STAGES, "projection": "conv_bn"}, "vit": {**BLOCKS, "projection": "conv_bn"}},
    "grad_cam": {"cnn": STAGES},
    "hint": {"cnn": LAST, "vit": TOKENS},
    "ickd": {"cnn": LAST, "vit": TOKENS},
    "mgd": {"cnn": STAGES},
    "minilm": {"encoder": {"relation_heads": 2}},
    "nst": {"cnn": STAGES, "vit": BLOCKS},
    "ofd": {"cnn": STAGES},
    "pkt": {"cnn": POOL, "vit": CLASS_TOKEN},
    "review_kd": {"cnn": {"layers": ["stem", "stage1", "pool@output"]}},
    "rkd": {"cnn": POOL, "vit": CLASS_TOKEN},
    "simkd": {"cnn": {"layers": {"projector": "stage1"}}},
    "sentence_embedding": {"encoder": {"hard_weight": 1.0}},
    "similarity_preserving": {"cnn": LAST, "vit": TOKENS},
    "srrl": {"cnn": POOL},
    "tinybert": {"encoder": {}},
    "vid": {"cnn": STAGES, "vit": TOKENS},
    "vkd": {"cnn": POOL, "vit": CLASS_TOKEN},
}
"""What the builder of a method on layers is given, by the kind of networks; those on tokens alone have no cnn's row."""


def feature_losses():
    """Return the public losses on features: those whose first argument is the student's."""
    public = {name: getattr(losses, name) for name in losses.__all__}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    first = {name: next(iter(inspect.signature(value).parameters), "") for name, value in functions.items()}
    return {name: functions[name] for name in functions if first[name] == "student" and name not in ELSEWHERE}


def ramp_u(*shape):
    """The student's test tensor of the specification."""
    return ((_places(shape, (7, 5, 3, 2)) % 11) / 5 - 1).double()


def ramp_v(*shape):
    """The teacher's."""
    return (((_places(shape, (5, 3, 7, 4)) + 2) % 13) / 6 - 1).double()


def _places(shape, factors):
    grids = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    return sum(factor * grid for factor, grid in zip(factors, grids, strict=True)).double()
