"""Low rank: a layer's matrix W (m, n) as a product A·B of two smaller ones, from its singular value decomposition."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.factorised import LowRankConv2d, LowRankEmbedding, LowRankLinear, LowRankLSTM
from limbeck.compress.factors import (
    Spectrum,
    factorise,
    factorise_by_frequency,
    factorise_by_inputs,
    rank_bound,
    rank_of_energy,
    ranks_within,
    spectrum,
)
from limbeck.compress.selection import check_globs, owners, replace_module, select_layers
from limbeck.compress.statistics import Statistics, second_moment
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import computed_complaint
from limbeck.errors import InputError, ModelError

__all__ = ["CARD", "LowRank"]

CARD = Card(
    name="low_rank",
    summary="layers as products of two smaller matrices, from their singular value decomposition",
    authors="Emily Denton, Wojciech Zaremba, Joan Bruna, Yann LeCun, Rob Fergus",
    year=2014,
    title="Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation",
    source="https://arxiv.org/abs/1404.0736",
    formula="W ≈ A·B, A = U_r·√Σ_r, B = √Σ_r·V_rᵀ; smaller where r < mn/(m + n)",
)

_INPUTS, _HIDDEN = "W_ih", "W_hh"


@dataclass(frozen=True)
class _Part:
    """One matrix of a layer.

    path: of the layer.  name: of the matrix in an LSTM, W_ih or W_hh and the layer's number; "" elsewhere.
    """

    path: str
    name: str
    matrix: Tensor

    @property
    def key(self) -> str:
        return f"{self.path}:{self.name}" if self.name else self.path

    @property
    def spectrum(self) -> Spectrum:
        m, n = self.matrix.shape
        return Spectrum(torch.empty(0), m, n, self.matrix.element_size())


@checked_fields
@dataclass(frozen=True)
class LowRank(Transform):
    """Replace matrices by products of two smaller ones.

    Linear (n → m) becomes two linear layers n → r → m; a convolution k × k to r channels and then 1 × 1; an embedding a
    table (V, r) and a matrix (r, d); an LSTM keeps W_ih and W_hh apart, each with its four gates stacked.  A matrix
    that several layers share is factorised once and stays shared.  Give one of `rank`, `energy` and `bytes`.

    Attributes:
        rank: r itself, or with a decimal point the share of each matrix's full rank.
        energy: e in (0, 1]; of each matrix the least rank with Σ_{i≤r} σ² / Σ σ² ≥ e.
        bytes: what all selected matrices may take together; ranks are given to where they reduce the error most.
        weight: "none" for the plain error of W; "input" to minimise the error of the layers' answers to calibration
            samples; "frequency" to weigh an embedding's rows by how often their tokens occur in these.
        select: paths or patterns of layers.
        skip: those that stay as they are.

    Raises:
        InputError: if not exactly one of rank, energy and bytes is given, or a value is out of range.

    Example:
        >>> model, log = LowRank(rank=0.25).apply(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)))
        >>> log.changed["0"], model(torch.zeros(2, 16)).shape
        ('Linear (16, 16): rank 4 of 16', torch.Size([2, 4]))

    Reference:
        Denton et al. (2014), "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation",
        arXiv:1404.0736; Yu et al. (2018), "On-Device Neural Language Model Based Word Prediction", for embeddings.
    """

    rank: int | float | None = None
    energy: float | None = None
    bytes: int | None = None
    weight: Literal["none", "input", "frequency"] = "none"
    select: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [key for key in ("rank", "energy", "bytes") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(f"rank: found {' and '.join(given) or 'none'}, expected one of rank, energy and bytes")
        if isinstance(self.rank, float):
            if not 0 < self.rank <= 1:
                raise InputError(f"rank: found {self.rank!r}, expected a whole number, or a share in (0, 1]")
        elif self.rank is not None:
            checks.at_least("rank", self.rank, 1)
        if self.energy is not None and not 0 < self.energy <= 1:
            raise InputError(f"energy: found {self.energy!r}, expected a share in (0, 1]")
        if self.bytes is not None:
            checks.at_least("bytes", self.bytes, 1)
        checks.choice("weight", self.weight, ("none", "input", "frequency"))
        check_globs(self.select, self.skip)

    @property
    def needs_statistics(self) -> bool:
        """Whether inputs are weighed."""
        return self.weight != "none"

    def on_any_weights(self) -> "LowRank":
        """Return rank 1 where the rank depends on the weights."""
        return self if self.energy is None else replace(self, energy=None, rank=1)

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Factorise the selected layers."""
        chosen = select_layers(model, self.select, self.skip, kind=self.kind, complaint=_complaint)
        _require_all_owners(model, chosen.layers)
        groups = _groups(chosen.layers, first=nn.Embedding if self.weight == "frequency" else nn.Linear)
        parts = [part for path in dict.fromkeys(groups.values()) for part in _parts(path, chosen.layers[path])]
        weighing = self._weighing(model, statistics, parts)
        ranks, errors = self._ranks(parts, weighing)
        whole = {part.path for part in parts if ranks[part.key] is None}
        kept = {path: "the budget has room for all of it" for path, first in groups.items() if first in whole}
        plan = {
            path: _planned(groups[path], module, ranks) for path, module in chosen.layers.items() if path not in kept
        }
        if not plan:
            raise InputError("bytes: found room for all selected layers as they are, expected fewer; lower it")
        factors = {
            part.key: weighing[part.key].factors(int(ranks[part.key] or 1)) for part in parts if part.path in plan
        }
        before = {path: module for path, module in chosen.layers.items() if path in plan}
        told = {path: _told(before[path], plan[path]) for path in plan}
        if self.weight != "none":
            weighed = {part.path for part in parts if weighing[part.key].weighs}
            told |= {path: f"{line}, unweighted" for path, line in told.items() if groups[path] not in weighed}
        changed = self.restructure(model, {"ranks": plan})
        for path in dict.fromkeys(groups[path] for path in plan):
            _fill(changed.get_submodule(path), before[path], path, factors)
        figures = {"squared_error": sum(errors[part.key] for part in parts if part.path in plan)}
        return changed, Log(told, {**chosen.kept, **kept}, {"ranks": plan}, figures)

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Put layers of the planned ranks in the place of others."""
        made: dict[int, nn.Module] = {}
        for path, rank in plan["ranks"].items():
            module = model.get_submodule(path)
            if id(module) not in made:
                new = _layer_like(module, rank)
                new.train(module.training)
                made[id(module)] = new
        shared: dict[int, nn.Module] = {}
        modules = {path: model.get_submodule(path) for path in plan["ranks"]}
        for path, module in modules.items():
            new = made[id(module)]
            if isinstance(weight := module._parameters.get("weight"), nn.Parameter):  # noqa: SLF001
                first = shared.setdefault(id(weight), new)
                if first is not new:
                    new.a.weight, new.b.weight = first.a.weight, first.b.weight  # type: ignore[union-attr]
            model = replace_module(model, path, new)
        return model

    def _weighing(self, model: nn.Module, statistics: Statistics | None, parts: list[_Part]) -> dict[str, "_Weighing"]:
        """Return for each matrix how its error is weighed."""
        if statistics is None or self.weight == "none":
            return {part.key: _Weighing(part.matrix) for part in parts}
        seen: dict[str, Tensor] = {}
        wanted = {part.path for part in parts}

        def see(path: str, module: nn.Module, given: Tensor) -> None:
            if isinstance(module, nn.Embedding):
                found = torch.bincount(given.reshape(-1), minlength=module.num_embeddings).double()
            elif isinstance(module, nn.Conv2d):
                found = second_moment(_patches(module, given))
            else:
                found = second_moment(given)
            seen[path] = seen[path] + found if path in seen else found

        statistics.visit(model, sorted(wanted), see)
        weighing = {}
        for part in parts:
            module, found = model.get_submodule(part.path), seen.get(part.path)
            if found is None:
                raise ModelError(f"weight: '{part.path}' is never called, so that its inputs are unknown; skip it")
            if isinstance(module, nn.Embedding):
                by_row = self.weight == "frequency"
                shares = (found + 1) / (found + 1).sum() if by_row else None
                weighing[part.key] = _Weighing(part.matrix, shares=shares)
            elif self.weight == "input" and not part.name.startswith(_HIDDEN) and part.name in ("", f"{_INPUTS} 0"):
                weighing[part.key] = _Weighing(part.matrix, moment=found)
            else:
                weighing[part.key] = _Weighing(part.matrix)
        if not any(each.weighs for each in weighing.values()):
            weighs = "embeddings" if self.weight == "frequency" else "linear layers, convolutions and LSTMs"
            raise InputError(
                f"weight: found {self.weight}, which weighs the errors of {weighs}, and none is selected; expected"
                " one. Select one, or leave weight out"
            )
        return weighing

    def _ranks(
        self, parts: list[_Part], weighing: Mapping[str, "_Weighing"]
    ) -> tuple[dict[str, int | None], dict[str, float]]:
        """Return the rank of each matrix, None for one that stays, and the squared error that it leaves."""
        values = {part.key: weighing[part.key].values() for part in parts}
        if self.bytes is not None:
            spectra = {
                part.key: Spectrum(values[part.key], len(part.matrix), part.matrix.shape[1], part.matrix.element_size())
                for part in parts
            }
            ranks = ranks_within(spectra, self.bytes)
            for part in parts:  # an LSTM stays whole, or none of its matrices does
                if part.name and ranks[part.key] is None:
                    ranks[part.key] = max(1, part.spectrum.most)
        else:
            ranks = {part.key: self._rank(part, values[part.key]) for part in parts}
        rest = {key: 0.0 if rank is None else float(values[key][rank:].square().sum()) for key, rank in ranks.items()}
        return ranks, rest

    def _rank(self, part: _Part, values: Tensor) -> int:
        """Return a matrix's rank; InputError where two factors of it would take more than the matrix."""
        m, n = part.matrix.shape
        full, key = min(m, n), "rank" if self.energy is None else "energy"
        if self.energy is not None:
            rank = rank_of_energy(values, self.energy)
        else:
            rank = max(1, round(self.rank * full)) if isinstance(self.rank, float) else int(self.rank or 1)
        bound = rank_bound(m, n)
        if rank >= bound:
            name = f"'{part.path}'" + (f" {part.name}" if part.name else "")
            raise InputError(
                f"{key}: found rank {rank} for {name} ({m}, {n}), which makes it larger; expected r < mn/(m+n) = "
                f"{bound:.4g}. Lower it, or skip '{part.path}'"
            )
        return rank


@dataclass(frozen=True)
class _Weighing:
    """A matrix and how the error of its factors is weighed: by inputs, by rows, or not."""

    matrix: Tensor
    moment: Tensor | None = None
    shares: Tensor | None = None

    @property
    def weighs(self) -> bool:
        """Whether the error is weighed."""
        return self.moment is not None or self.shares is not None

    def values(self) -> Tensor:
        """Return the singular values of what is decomposed."""
        if self.moment is not None:
            left, _ = factorise_by_inputs(self.matrix, self.moment, min(self.matrix.shape))
            return left.square().sum(0)
        if self.shares is not None:
            root = (self.shares / self.shares.mean()).sqrt()[:, None].to(self.matrix.device)
            return spectrum(root * self.matrix.double())
        return spectrum(self.matrix)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return A and B."""
        if self.moment is not None:
            return factorise_by_inputs(self.matrix, self.moment, rank)
        if self.shares is not None:
            return factorise_by_frequency(self.matrix, self.shares, rank)
        return factorise(self.matrix, rank)


def _complaint(module: nn.Module) -> str | None:
    """Return why a layer cannot be factorised; None where it can."""
    if complaint := computed_complaint(module, "low_rank"):
        return complaint
    if isinstance(module, nn.Linear):
        return None
    if isinstance(module, nn.Conv2d):
        return None if module.groups == 1 else "low_rank does not change a grouped convolution"
    if isinstance(module, nn.Embedding):
        plain = module.max_norm is None and not module.sparse and not module.scale_grad_by_freq
        return None if plain else "low_rank does not change an embedding with max_norm, sparse or scaled gradients"
    if isinstance(module, nn.LSTM):
        plain = not module.bidirectional and not module.proj_size
        return None if plain else "low_rank does not change a bidirectional or projected LSTM"
    return f"low_rank does not change a {type(module).__name__}"


def _groups(layers: Mapping[str, nn.Module], *, first: type[nn.Module]) -> dict[str, str]:
    """Return by each layer's path the path of the one that stands for all that share its matrix.

    first: the kind that stands for the others where there is one.
    """
    found: dict[int, list[str]] = {}
    for path, module in layers.items():
        weight = module._parameters.get("weight")  # noqa: SLF001
        found.setdefault(id(module if weight is None else weight), []).append(path)
    chosen: dict[str, str] = {}
    for paths in found.values():
        stands = next((path for path in paths if isinstance(layers[path], first)), paths[0])
        chosen |= dict.fromkeys(paths, stands)
    return {path: chosen[path] for path in layers}


def _require_all_owners(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Require that all layers that share a selected matrix are selected."""
    for path, module in layers.items():
        for name, parameter in module._parameters.items():  # noqa: SLF001
            if parameter is None or parameter.dim() < 2:
                continue
            own = f"{path}.{name}" if path else name
            others = [each for each in owners(model, parameter) if each.rpartition(".")[0] not in layers]
            if others:
                raise ModelError(
                    f"low_rank: '{own}' is tied to '{others[0]}' and would be untied; select both, or skip both"
                )


def _parts(path: str, module: nn.Module) -> list[_Part]:
    """Return the matrices of a layer."""
    if isinstance(module, nn.LSTM):
        return [
            _Part(path, f"{name} {layer}", getattr(module, f"weight_{side}_l{layer}").detach())
            for layer in range(module.num_layers)
            for name, side in ((_INPUTS, "ih"), (_HIDDEN, "hh"))
        ]
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return [_Part(path, "", weight.flatten(1))]


def _patches(module: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return what a convolution multiplies its flattened kernel with, (…, c_in·k²)."""
    padding = module._reversed_padding_repeated_twice  # noqa: SLF001 - of `same` too
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = nn.functional.pad(inputs, padding, mode=mode) if any(padding) else inputs
    found = nn.functional.unfold(
        padded,
        module.kernel_size,
        dilation=module.dilation,
        stride=module.stride,
    )
    return found.transpose(1, 2)


def _planned(path: str, module: nn.Module, ranks: Mapping[str, int | None]) -> Any:
    """Return the ranks of a layer as the plan has them."""
    if isinstance(module, nn.LSTM):
        layers = range(module.num_layers)
        return [[ranks[f"{path}:{_INPUTS} {layer}"], ranks[f"{path}:{_HIDDEN} {layer}"]] for layer in layers]
    return ranks[path]


def _told(module: nn.Module, rank: Any) -> str:
    if isinstance(module, nn.LSTM):
        sizes = "; ".join(f"W_ih rank {first}, W_hh rank {second}" for first, second in rank)
        return f"LSTM ({module.input_size}, {module.hidden_size}): {sizes}"
    m, n = module.get_parameter("weight").flatten(1).shape
    return f"{type(module).__name__} ({m}, {n}): rank {rank} of {min(m, n)}"


def _layer_like(module: nn.Module, rank: Any) -> nn.Module:
    """Return the layer of a rank that takes another's place, on its device and in its type, with its bias."""
    if isinstance(module, nn.LSTM):
        new: nn.Module = LowRankLSTM(module, [(int(first), int(second)) for first, second in rank])
        learns = bool(module.weight_ih_l0.requires_grad)
    else:
        if isinstance(module, nn.Linear):
            new = LowRankLinear(module.in_features, module.out_features, int(rank), bias=module.bias is not None)
        elif isinstance(module, nn.Conv2d):
            new = LowRankConv2d(module, int(rank))
        elif isinstance(module, nn.Embedding):
            new = LowRankEmbedding(module.num_embeddings, module.embedding_dim, int(rank), module.padding_idx)
        else:
            raise InputError(f"found a {type(module).__name__}, which has no low rank")
        new = new.to(device=module.weight.device, dtype=module.weight.dtype)
        learns = module.get_parameter("weight").requires_grad
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            new.get_submodule("a").bias = bias
    for name, parameter in new.named_parameters():
        if name != "a.bias":
            parameter.requires_grad_(learns)
    return new


def _fill(new: nn.Module, old: nn.Module, path: str, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Put the factors of a layer's matrices into the layer that took its place."""
    if isinstance(new, LowRankLSTM):
        for layer in range(new.num_layers):
            pairs = ((_INPUTS, new.input_a, new.input_b), (_HIDDEN, new.hidden_a, new.hidden_b))
            for name, lefts, rights in pairs:
                found = factors[f"{path}:{name} {layer}"]
                lefts[layer].copy_(found[0])
                rights[layer].copy_(found[1])
            if len(new.bias):
                summed = getattr(old, f"bias_ih_l{layer}").double() + getattr(old, f"bias_hh_l{layer}").double()
                new.bias[layer].copy_(summed)
        return
    for part, factor in zip(("a", "b"), factors[path], strict=True):
        weight = new.get_parameter(f"{part}.weight")
        weight.copy_(factor.reshape(weight.shape))
