"""Methods: builders of an `Objective`, each with the card of its paper.

A method with a formula of its own is a file with its `CARD` and a function that bears the file's name; one that is
another with a target and defaults of its own is a row of `presets.CARDS` and a function there.
"""

import importlib
from collections.abc import Callable

from limbeck.arguments import checked
from limbeck.card import Card, files_of
from limbeck.errors import InputError, one_of
from limbeck.methods.activation_boundary import activation_boundary
from limbeck.methods.activation_regularization import activation_regularization
from limbeck.methods.attention_transfer import attention_transfer
from limbeck.methods.bounded_regression import bounded_regression
from limbeck.methods.bss import bss
from limbeck.methods.cat_kd import cat_kd
from limbeck.methods.correlation_congruence import correlation_congruence
from limbeck.methods.crd import crd
from limbeck.methods.cwtm import cwtm
from limbeck.methods.darkrank import darkrank
from limbeck.methods.deit import deit
from limbeck.methods.dist import dist
from limbeck.methods.distilbert import distilbert
from limbeck.methods.dkd import dkd
from limbeck.methods.factor_transfer import factor_transfer
from limbeck.methods.fsp import fsp
from limbeck.methods.grad_cam import grad_cam
from limbeck.methods.hard import hard
from limbeck.methods.hint import hint
from limbeck.methods.ickd import ickd
from limbeck.methods.input_gradient import input_gradient
from limbeck.methods.kd import kd
from limbeck.methods.logit_matching import logit_matching
from limbeck.methods.mgd import mgd
from limbeck.methods.minilm import minilm
from limbeck.methods.nst import nst
from limbeck.methods.ofd import ofd
from limbeck.methods.pkt import pkt
from limbeck.methods.presets import (
    CARDS,
    class_subset,
    dkpp,
    kd_pt,
    kd_rel,
    kd_sim,
    kd_topk,
    label_smoothing,
    logit_standardisation,
    tf_kd,
    tf_kd_self,
)
from limbeck.methods.ranking_distillation import ranking_distillation
from limbeck.methods.review_kd import review_kd
from limbeck.methods.rkd import rkd
from limbeck.methods.sentence_embedding import sentence_embedding
from limbeck.methods.similarity_preserving import similarity_preserving
from limbeck.methods.simkd import simkd
from limbeck.methods.srrl import srrl
from limbeck.methods.tinybert import tinybert
from limbeck.methods.vid import vid
from limbeck.methods.vkd import vkd
from limbeck.methods.wttm import wttm
from limbeck.objective import Objective

__all__ = [
    "Card",
    "activation_boundary",
    "activation_regularization",
    "attention_transfer",
    "bounded_regression",
    "bss",
    "builder",
    "card",
    "cat_kd",
    "class_subset",
    "correlation_congruence",
    "crd",
    "cwtm",
    "darkrank",
    "deit",
    "dist",
    "distilbert",
    "dkd",
    "dkpp",
    "factor_transfer",
    "fsp",
    "grad_cam",
    "hard",
    "hint",
    "ickd",
    "input_gradient",
    "kd",
    "kd_pt",
    "kd_rel",
    "kd_sim",
    "kd_topk",
    "kinds",
    "label_smoothing",
    "logit_matching",
    "logit_standardisation",
    "mgd",
    "minilm",
    "names",
    "nst",
    "ofd",
    "pkt",
    "ranking_distillation",
    "review_kd",
    "rkd",
    "sentence_embedding",
    "similarity_preserving",
    "simkd",
    "srrl",
    "tf_kd",
    "tf_kd_self",
    "tinybert",
    "vid",
    "vkd",
    "wttm",
]


def names() -> list[str]:
    """Return the names of all methods.

    Returns:
        Sorted names: the files of this package and the presets.

    Example:
        >>> {"kd", "kd_topk"} <= set(names())
        True
    """
    files = (name for name in files_of(__path__) if name != "presets")
    return sorted([*files, *CARDS])


@checked
def builder(name: str) -> Callable[..., Objective]:
    """Return the function that builds the objective of a method.

    Args:
        name: one of `names()`.

    Returns:
        A function from the method's settings to an `Objective`.

    Raises:
        InputError: if there is no such method.

    Example:
        >>> objective = builder("kd")(temperature=2.0)
        >>> sorted(objective.terms)
        ['hard', 'soft']
    """
    return getattr(_module(name), name)  # type: ignore[no-any-return]


def kinds() -> dict[str, Callable[..., Objective]]:
    """Return the function that builds each method.

    Returns:
        {name: function from the method's settings to an `Objective`}.

    Example:
        >>> kinds()["kd"] is kd
        True
    """
    return {name: builder(name) for name in names()}


@checked
def card(name: str) -> Card:
    """Return the card of a method: its paper, summary and formula.

    Args:
        name: one of `names()`.

    Returns:
        The card.

    Raises:
        InputError: if there is no such method.

    Example:
        >>> card("kd").year, card("kd_topk").year
        (2015, 2020)
    """
    return CARDS.get(name) or _module(name).CARD  # type: ignore[attr-defined]


def _module(name: str) -> object:
    if name not in names():
        raise InputError(f"method: there is no method '{name}'; {one_of(name, names())}")
    return importlib.import_module(f"{__name__}.{'presets' if name in CARDS else name}")
