"""How a teacher's answer becomes a row of a store and an answer again: all logits, rounded ones, the largest, draws."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.cache.layout import narrowest
from limbeck.errors import InputError, one_of
from limbeck.outputs import Members, Outputs
from limbeck.randomness import derive_seed, uniform
from limbeck.sparse import SampledAnswer, TopKAnswer
from limbeck.targets import softened

__all__ = [
    "ENCODINGS",
    "AnyEncoding",
    "DenseEncoding",
    "Encoding",
    "QuantizedEncoding",
    "RowNames",
    "SampledEncoding",
    "TopKEncoding",
    "encoding_of",
    "keys_of",
    "storable",
]

_AT_ONCE = 2**22  # logits that are sorted or summed together
_APART = 2**24
"""More than the places of a sample, so that each place has a number of its own."""

Numbers = Literal["fp32", "fp16", "bf16"]
_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class RowNames:
    """What rows are answers to: view, index of the sample and place in it, each (R,) int64; seed: of the draws."""

    view: Tensor
    index: Tensor
    place: Tensor
    seed: int


class Encoding(Protocol):
    """How answers are stored."""

    @property
    def sparse(self) -> bool:
        """Whether terms get an answer that is cut to few classes."""

    @property
    def feature_type(self) -> str:
        """In which type features are stored beside it."""

    def fields(self, classes: int, shape: Sequence[int], members: int) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return the fields (name, type, shape) of a row; InputError where there can be none for so many classes."""

    def encode(self, outputs: Outputs, names: RowNames) -> dict[str, Tensor]:
        """Return the values of the fields, (R, ...), of the answers in R rows."""

    def decode(
        self, values: Mapping[str, Tensor], classes: int, members: Mapping[str, Any] | None, ahead: int
    ) -> Outputs:
        """Return the answer that the fields of some places hold, each with `ahead` axes and then those of a row."""


@checked_fields
@dataclass(frozen=True)
class DenseEncoding:
    """All logits, and of an ensemble those of its members.

    Attributes:
        dtype: "fp32" stores them bit for bit; "fp16" and "bf16" round them.

    Raises:
        InputError: if the type is another.

    Example:
        >>> DenseEncoding("fp16").sparse
        False
    """

    dtype: Numbers = "fp32"

    sparse = False

    def __post_init__(self) -> None:
        _known("dtype", self.dtype, _TYPES)

    @property
    def feature_type(self) -> str:
        """The type of the logits."""
        return _TYPES[self.dtype]

    def fields(self, classes: int, shape: Sequence[int], members: int) -> list[tuple[str, str, tuple[int, ...]]]:
        found = [("logits", _TYPES[self.dtype], (*shape, classes))]
        return found + ([("members", _TYPES[self.dtype], (members, *shape, classes))] if members else [])

    def encode(self, outputs: Outputs, names: RowNames) -> dict[str, Tensor]:
        found = {"logits": outputs.logits}
        if outputs.members is not None:
            found["members"] = outputs.members.logits.transpose(0, 1)
        for logits in found.values():
            storable(logits, self.dtype, "logits")
        return found

    def decode(
        self, values: Mapping[str, Tensor], classes: int, members: Mapping[str, Any] | None, ahead: int
    ) -> Outputs:
        if members is None:
            return Outputs(values["logits"])
        logits = values["members"].movedim(ahead, 0)
        return Outputs(values["logits"], members=Members(logits, tuple(members["weights"]), members["mean"]))


@checked_fields
@dataclass(frozen=True)
class QuantizedEncoding:
    """All logits, rounded to a grid of 2^bits values between the least and the largest one of each row.

    Beside the least one of its row a logit is off by half a step at most, (largest - least) / (2^bits - 1) / 2, and to
    the rounding of the step to float16.  The least one is rounded to float16 too, which moves the whole row, and which
    no distribution depends on.  Unlike the k largest, it says something of every class at every temperature.

    Attributes:
        bits: of a logit, 2 to 8.

    Raises:
        InputError: if the number of bits is another.

    Example:
        >>> QuantizedEncoding(bits=4).fields(100, (), 0)
        [('codes', 'uint8', (50,)), ('least', 'float16', ()), ('step', 'float16', ())]
    """

    bits: int = 4

    sparse = False

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise InputError(f"bits: found {self.bits}; expected 2 to 8")

    @property
    def feature_type(self) -> str:
        """Float16."""
        return "float16"

    def fields(self, classes: int, shape: Sequence[int], members: int) -> list[tuple[str, str, tuple[int, ...]]]:
        found: list[tuple[str, str, tuple[int, ...]]] = []
        for start, places in (("", tuple(shape)), *((("members:", (members, *shape)),) if members else ())):
            found.append((f"{start}codes", "uint8", (*places, -(-classes * self.bits // 8))))
            found += [(f"{start}{name}", "float16", places) for name in ("least", "step")]
        return found

    def encode(self, outputs: Outputs, names: RowNames) -> dict[str, Tensor]:
        found = self._rounded(outputs.logits, "")
        if outputs.members is not None:
            found |= self._rounded(outputs.members.logits.transpose(0, 1), "members:")
        return found

    def _rounded(self, logits: Tensor, start: str) -> dict[str, Tensor]:
        storable(logits, "fp16", "logits")
        if bool(logits.isinf().any()):
            raise InputError(
                "bits: found -inf in the teacher's answers, which no grid holds; expected finite numbers. Use the"
                " encoding dense"
            )
        logits, most = logits.float(), 2**self.bits - 1
        least, largest = logits.aminmax(dim=-1, keepdim=True)
        step = ((largest - least) / most).half().float()  # as it is read
        codes = ((logits - least) / step).nan_to_num(0.0, 0.0, 0.0).round().clamp(0, most).to(torch.uint8)
        return {
            f"{start}codes": _packed(codes, self.bits),
            f"{start}least": least[..., 0],
            f"{start}step": step[..., 0],
        }

    def decode(
        self, values: Mapping[str, Tensor], classes: int, members: Mapping[str, Any] | None, ahead: int
    ) -> Outputs:
        logits = self._read(values, classes, "")
        if members is None:
            return Outputs(logits)
        each = self._read(values, classes, "members:").movedim(ahead, 0)
        return Outputs(logits, members=Members(each, tuple(members["weights"]), members["mean"]))

    def _read(self, values: Mapping[str, Tensor], classes: int, start: str) -> Tensor:
        codes = _unpacked(values[f"{start}codes"], self.bits, classes)
        return torch.addcmul(values[f"{start}least"][..., None], values[f"{start}step"][..., None], codes)


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Return codes (..., K) below 2^bits as bytes (..., ⌈K·bits/8⌉), the highest bit first.

    >>> _packed(torch.tensor([[1, 2, 15]], dtype=torch.uint8), 4)
    tensor([[ 18, 240]], dtype=torch.uint8)
    """
    places = torch.arange(bits - 1, -1, -1, device=codes.device, dtype=torch.uint8)
    each = ((codes[..., None] >> places) & 1).flatten(-2)
    each = nn.functional.pad(each, (0, -each.shape[-1] % 8)).unflatten(-1, (-1, 8))
    packed: Tensor = each << torch.arange(7, -1, -1, device=codes.device, dtype=torch.uint8)
    return packed.sum(-1, dtype=torch.uint8)


def _unpacked(packed: Tensor, bits: int, classes: int) -> Tensor:
    """Return what `_packed` was given, as float32.

    >>> _unpacked(torch.tensor([[18, 240]]), 4, 3)
    tensor([[ 1.,  2., 15.]])
    """
    packed = packed.to(torch.uint8)
    if 8 % bits == 0:  # no code lies in two bytes
        ends = torch.arange(8 - bits, -1, -bits, device=packed.device, dtype=torch.uint8)
        several: Tensor = (packed[..., None] >> ends) & (2**bits - 1)
        return several.flatten(-2)[..., :classes].float()
    places = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    each = ((packed[..., None] >> places) & 1).flatten(-2)[..., : classes * bits].unflatten(-1, (classes, bits))
    codes: Tensor = each << torch.arange(bits - 1, -1, -1, device=packed.device, dtype=torch.uint8)
    return codes.sum(-1).float()


@checked_fields
@dataclass(frozen=True)
class TopKEncoding:
    """The k largest logits, and what the other classes add up to at each temperature.

    Attributes:
        k: how many; all where there are fewer classes.
        temperatures: those at which the answers will be asked for.  The k largest logits and the sum of the others at
            one temperature do not determine the distribution at another, so others are refused.
        dtype: of the logits, "fp16" or "fp32"; the sums are float32, and a distribution adds up to 1 in either.  They
            are stored less the largest one, which no distribution depends on.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> TopKEncoding(k=16, temperatures=(1.0, 4.0)).fields(100, (), 0)
        [('ids', 'uint8', (16,)), ('logits', 'float16', (16,)), ('rest', 'float32', (2,))]
    """

    k: int = 16
    temperatures: tuple[float, ...] = (1.0,)
    dtype: Literal["fp16", "fp32"] = "fp16"

    sparse = True

    def __post_init__(self) -> None:
        checks.at_least("k", self.k, 1)
        _known("dtype", self.dtype, ("fp16", "fp32"))
        if not self.temperatures or len(set(self.temperatures)) != len(self.temperatures):
            raise InputError(
                f"temperatures: found {list(self.temperatures)}; expected one at least, each once. List those that the"
                " method uses"
            )
        for temperature in self.temperatures:
            checks.positive("temperatures", temperature)

    @property
    def feature_type(self) -> str:
        """The type of the logits."""
        return _TYPES[self.dtype]

    def fields(self, classes: int, shape: Sequence[int], members: int) -> list[tuple[str, str, tuple[int, ...]]]:
        if members and len(self.temperatures) > 1:
            raise InputError(
                f"temperatures: found {len(self.temperatures)} for an ensemble, whose mean has other largest classes at"
                " each temperature; expected one. Give one temperature, or use the encoding dense"
            )
        k = min(self.k, classes)
        return [
            ("ids", narrowest(classes), (*shape, k)),
            ("logits", _TYPES[self.dtype], (*shape, k)),
            ("rest", "float32", (*shape, len(self.temperatures))),
        ]

    def encode(self, outputs: Outputs, names: RowNames) -> dict[str, Tensor]:
        logits = outputs.logits
        if outputs.members is not None:  # the mean at the one temperature, as logits that give it there
            logits = softened(outputs, self.temperatures[0]).log_probs * self.temperatures[0]
        rows = logits.shape[-1]
        parts = [self._cut(part) for part in logits.split(max(1, _AT_ONCE // logits[0].numel()))] if len(logits) else []
        if not parts:
            k, shape = min(self.k, rows), logits.shape[:-1]
            return {
                "ids": logits.new_zeros((*shape, k), dtype=torch.int64),
                "logits": logits.new_zeros((*shape, k)),
                "rest": logits.new_zeros((*shape, len(self.temperatures))),
            }
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _cut(self, logits: Tensor) -> dict[str, Tensor]:
        storable(logits, "fp32", "logits")
        logits = logits.float() - logits.float().amax(-1, keepdim=True)
        values, ids = logits.topk(min(self.k, logits.shape[-1]), dim=-1)
        storable(values, self.dtype, "logits")
        others = logits.double().scatter(-1, ids, -torch.inf)
        rest = torch.stack([(others / temperature).logsumexp(-1) for temperature in self.temperatures], dim=-1)
        return {"ids": ids, "logits": values, "rest": rest.float()}

    def decode(
        self, values: Mapping[str, Tensor], classes: int, members: Mapping[str, Any] | None, ahead: int
    ) -> Outputs:
        return Outputs.cut(self.answer(values, classes))

    def answer(self, values: Mapping[str, Tensor], classes: int) -> TopKAnswer:
        """Return the answer that the fields of some places hold."""
        rest = {temperature: values["rest"][..., at] for at, temperature in enumerate(self.temperatures)}
        return TopKAnswer(values["ids"], values["logits"], rest, classes)


@checked_fields
@dataclass(frozen=True)
class SampledEncoding:
    """Classes drawn from the teacher's distribution; the expected gradient is that of the whole distribution.

    The draws for a place are a function of (seed, view, index, place) alone.

    Attributes:
        draws: for each place.
        temperature: of the distribution.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> SampledEncoding().fields(128_256, (), 0)
        [('ids', 'uint24', (12,)), ('entropy', 'float16', ())]

    Reference:
        Anshumann et al. (2025), "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870.
    """

    draws: int = 12
    temperature: float = 1.0

    sparse = True

    def __post_init__(self) -> None:
        checks.at_least("draws", self.draws, 1)
        checks.positive("temperature", self.temperature)

    @property
    def feature_type(self) -> str:
        """Float32."""
        return "float32"

    def fields(self, classes: int, shape: Sequence[int], members: int) -> list[tuple[str, str, tuple[int, ...]]]:
        return [("ids", narrowest(classes), (*shape, self.draws)), ("entropy", "float16", tuple(shape))]

    def encode(self, outputs: Outputs, names: RowNames) -> dict[str, Tensor]:
        log_probs = softened(outputs, self.temperature).log_probs
        flat = log_probs.flatten(0, -2)
        each = len(flat) // max(1, len(log_probs))  # places within a row, such as pixels
        within = torch.arange(each, device=flat.device).repeat(len(log_probs))
        view, index, place = (
            getattr(names, name).to(flat.device).repeat_interleave(each) for name in ("view", "index", "place")
        )
        number = (index * _APART + place) * each + within
        seed, several = derive_seed(names.seed, "store"), max(1, _AT_ONCE // flat.shape[-1])
        ids, entropy = [flat.new_zeros((0, self.draws), dtype=torch.int64)], [flat.new_zeros(0)]
        for start in range(0, len(flat), several):
            part = slice(start, start + several)
            logs = flat[part].double()
            probs = logs.exp()
            high = uniform(seed, "draws", view[part], number[part], self.draws).double()
            low = uniform(seed, "draws, low bits", view[part], number[part], self.draws).double()
            ids.append(drawn(probs, high + low * 2.0**-24))
            entropy.append(-(probs * logs.nan_to_num(neginf=0.0)).sum(-1).float())
        return {
            "ids": torch.cat(ids).reshape(*log_probs.shape[:-1], self.draws),
            "entropy": torch.cat(entropy).reshape(log_probs.shape[:-1]),
        }

    def decode(
        self, values: Mapping[str, Tensor], classes: int, members: Mapping[str, Any] | None, ahead: int
    ) -> Outputs:
        return Outputs.cut(SampledAnswer(values["ids"], self.temperature, values["entropy"], classes))


AnyEncoding = DenseEncoding | QuantizedEncoding | TopKEncoding | SampledEncoding
"""One of the encodings."""

ENCODINGS: Mapping[str, type[AnyEncoding]] = {
    "dense": DenseEncoding,
    "quantized": QuantizedEncoding,
    "topk": TopKEncoding,
    "sampled": SampledEncoding,
}
"""By the name that a recipe and a header give them."""


def drawn(probs: Tensor, numbers: Tensor) -> Tensor:
    """Return the classes (R, n) that uniform numbers (R, n) in [0, 1) draw from distributions (R, K), float64.

    Class c is drawn by the numbers from Σ_{j<c} p_j to Σ_{j≤c} p_j; a class of probability 0 is never drawn.

    >>> drawn(torch.tensor([[0.25, 0.0, 0.75]]).double(), torch.tensor([[0.0, 0.24, 0.25, 0.99]]).double())
    tensor([[0, 0, 2, 2]])
    """
    ends = probs.cumsum(-1)
    ids = torch.searchsorted(ends, numbers * ends[:, -1:], right=True)
    last = probs.shape[-1] - 1 - (probs > 0).flip(-1).int().argmax(-1, keepdim=True)
    return torch.minimum(ids, last)


def encoding_of(kind: str, keys: Mapping[str, Any], where: str = "encoding") -> AnyEncoding:
    """Return the encoding of a name with some of its keys; InputError for others.

    >>> encoding_of("topk", {"k": 4})
    TopKEncoding(k=4, temperatures=(1.0,), dtype='fp16')
    """
    if kind not in ENCODINGS:
        raise InputError(f"{where}: found {kind!r}; {one_of(str(kind), ENCODINGS)}")
    made: Any = ENCODINGS[kind]
    known = [each.name for each in fields(made)]
    for name in keys:
        if name not in known:
            raise InputError(f"{where}: '{kind}' has no key '{name}'; {one_of(name, known)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in keys.items()}
    encoding: AnyEncoding = made(**values)
    return encoding


def keys_of(encoding: AnyEncoding) -> dict[str, Any]:
    """Return an encoding as a header holds it, by its kind and keys.

    >>> keys_of(DenseEncoding())
    {'kind': 'dense', 'dtype': 'fp32'}
    """
    kind = next(name for name, made in ENCODINGS.items() if type(encoding) is made)
    return {"kind": kind, **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(encoding).items()}}


def _known(key: str, value: str, allowed: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in allowed:
        raise InputError(f"{key}: found {value!r}; {one_of(str(value), allowed)}")


def storable(numbers: Tensor, dtype: str, what: str) -> None:
    """Require numbers that a type can hold: no NaN and no +inf, and none that would become infinite."""
    if bool((numbers.isnan() | (numbers == torch.inf)).any()):
        raise InputError(
            f"{what}: found NaN or +inf in the teacher's answers; expected finite numbers. Look at the teacher"
        )
    most = torch.finfo(getattr(torch, _TYPES[dtype])).max
    if bool((numbers.isfinite() & (numbers.abs() > most)).any()):
        raise InputError(
            f"dtype: found {dtype} for {what} up to {float(numbers.abs().max()):g}, which it cannot hold; expected at"
            f" most {most:g}. {'Make them smaller' if dtype == 'fp32' else 'Use fp32'}"
        )
