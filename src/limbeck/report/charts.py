"""Charts as plain data: what is drawn, apart from how.  `svg` draws them, for the page and for files."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

__all__ = [
    "Axis",
    "Bar",
    "Chart",
    "Dot",
    "DotPlot",
    "DotRange",
    "Line",
    "Matrix",
    "Plane",
    "Point",
    "breadth",
    "short",
    "shortened",
    "signed",
    "spanning",
    "ticks",
]

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`.

    log: logarithmic.  share: its ticks are in percent.  whole: only whole numbers are ticks, where there are two.
    Ends that are equal are moved apart, so that every axis has a length.
    """

    label: str
    low: float
    high: float
    log: bool = False
    share: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if self.high > self.low:
            return
        if self.log:
            low, high = self.low / 2, self.low * 2
        else:
            room = max(1.0, abs(self.low) * 1e-9) if self.whole else abs(self.low) * 0.1 or 1.0
            low, high = self.low - room, self.low + room
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def place(self, value: float) -> float:
        """Return where a value lies between the axis' ends, 0 to 1; beyond them it is put on the nearer end.

        >>> Axis("T", 1.0, 100.0, log=True).place(10.0)
        0.5
        """
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low)) if self.log else value
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return the axis' ticks, two at least, with their texts, no two of which are the same."""
        found = ticks(self.low, self.high, log=self.log, most=most)
        whole = [value for value in found if value == round(value)]
        found = whole if self.whole and len(whole) > 1 else found
        texts: list[str] = []
        for digits in range(6 if self.share else 3, 18):
            texts = [f"{100 * value:.{digits}g} %" if self.share else short(value, digits) for value in found]
            if len(set(texts)) == len(texts):
                break
        return list(zip(found, texts, strict=True))


@dataclass(frozen=True)
class Line:
    """A curve.  colour: a name of the page's palette.  band: lower and upper ends over x.  dash: as in SVG."""

    name: str
    colour: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dash: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar from `left` to `right` on the x axis, up to `height`.  strength: of its colour, 0 to 1."""

    left: float
    right: float
    height: float
    note: str
    strength: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A marked point with its name beside it."""

    x: float
    y: float
    colour: str
    name: str
    note: str


@dataclass(frozen=True)
class Chart:
    """What every chart has.

    key: its name as a file.  title: above it.  alternative: what it shows, for those who cannot see it.
    """

    key: str
    title: str
    alternative: str


@dataclass(frozen=True)
class Plane(Chart):
    """A chart over two number axes.

    cloud: points that are too many to be named.  colour: of it and of the bars.
    marker: an x where a movable upright line begins.
    """

    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    dots: Sequence[Dot] = ()
    cloud: Sequence[Point] = ()
    colour: str = "ink"
    marker: float | None = None


@dataclass(frozen=True)
class DotRange:
    """A value with its interval, in the colour of a series."""

    series: str
    colour: str
    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, series: str, colour: str, value: float) -> "DotRange":
        """Return a value without an interval."""
        return cls(series, colour, value, value, value)


@dataclass(frozen=True)
class DotPlot(Chart):
    """Names down the side, and for each the values of some series along one axis.  origin: where an upright stands."""

    x: Axis
    rows: Sequence[tuple[str, Sequence[DotRange]]]
    origin: float | None = None


@dataclass(frozen=True)
class Matrix(Chart):
    """Counts by row (true class) and column (answer).  The diagonal is what is right and is drawn apart."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    colour: str = field(default="ink")


@dataclass(frozen=True)
class Heat(Chart):
    """Resemblances of each two classes, None where there is none; the diagonal is not drawn.

    names: of rows and columns.  values: symmetric.  The scale goes from the least over the median to the largest.
    """

    names: Sequence[str]
    values: Sequence[Sequence[float | None]]

    @cached_property
    def scale(self) -> tuple[float, float, float]:
        """The least resemblance of two classes, the median and the largest; zeros where there is none."""
        size = range(len(self.names))
        known = [v for i in size for j in size if i < j and (v := self.values[i][j]) is not None] or [0.0]
        return min(known), median(known), max(known)

    def shade(self, value: float) -> float:
        """Return where a value lies: -1 at the least, 0 at the median, 1 at the largest.

        It goes with the root of the distance from the median, so that one pair that stands out hides no others.

        >>> heat = Heat("k", "t", "a", "abc", [[None, 0.0, 0.1], [0.0, None, 0.5], [0.1, 0.5, None]])
        >>> heat.scale, heat.shade(0.2), heat.shade(0.0)
        ((0.0, 0.1, 0.5), 0.5, -1.0)
        """
        low, middle, high = self.scale
        side, end = (1.0, high - middle) if value > middle else (-1.0, middle - low)
        return side * math.sqrt(min(abs(value - middle) / end, 1.0)) if end > 0 and value != middle else 0.0

    def pairs(self, most: int) -> list[tuple[str, str, float]]:
        """Return the pairs that are most alike and those that are least, so many of each, the most alike first."""
        size = range(len(self.names))
        every = [(value, i, j) for i in size for j in size if i < j and (value := self.values[i][j]) is not None]
        every.sort(key=lambda each: (-each[0], each[1:]))
        kept = every if len(every) <= 2 * most else [*every[:most], *every[-most:]]
        return [(self.names[i], self.names[j], value) for value, i, j in kept]


def short(value: float, digits: int = 3) -> str:
    """Return a number as a tick shows it.  digits: that count.

    >>> [short(value) for value in (0.0, 0.001, -0.25, 1.5, 4740.0, 2e-7)]
    ['0', '0.001', '−0.25', '1.5', '4.74k', '2e−07']
    """
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.{digits}g}{letter}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def shortened(name: str, most: int = 28) -> str:
    """Return a name that is no wider than so many letters; what is cut off is an ellipsis.

    >>> shortened("golden retriever", 10), shortened("猫と犬と鳥", 6)
    ('golden re…', '猫と…')
    """
    if len(name) <= most and breadth(name) <= most:
        return name
    kept = ""
    for letter in name[:most]:
        if breadth(kept + letter) > most - 1:
            break
        kept += letter
    return f"{kept}…"


def breadth(name: str) -> int:
    """Return how many letters wide a name is; those of Chinese, Japanese and Korean are twice as wide as others.

    >>> breadth("cat"), breadth("猫")
    (3, 2)
    """
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)


def signed(value: float) -> str:
    """Return a change with its sign and one decimal.

    >>> signed(3.14), signed(-0.5), signed(0.04)
    ('+3.1', '−0.5', '0.0')
    """
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def ticks(low: float, high: float, *, log: bool = False, most: int = 6) -> list[float]:
    """Return round numbers between two ends, two at least: 1, 2 and 5 times powers of ten.

    Between two of these a logarithmic axis has the ticks of a linear one; ends that are too near are ticks themselves.

    >>> ticks(0.0, 23.0), ticks(0.5, 20.0, log=True)
    ([0.0, 5.0, 10.0, 15.0, 20.0], [0.5, 1.0, 2.0, 5.0, 10.0, 20.0])
    """
    if log and high > low:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            every = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
            found = [value for value in every if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
            if len(found) <= most:
                break
        if len(found) > 1:
            return found[:: math.ceil(len(found) / most)]
    span = high / most - low / most  # high - low may be more than a float holds
    if not span > 1e-15 * max(abs(low), abs(high)):
        return [low, high]
    size = 10.0 ** math.floor(math.log10(span))
    step = next(size * factor for factor in (1, 2, 5, 10) if span <= size * factor)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * number:.15g}") for number in range(first, last + 1)]


def spanning(
    label: str, values: Sequence[float], *, log: bool = False, zero: bool = False, share: bool = False
) -> Axis:
    """Return an axis that holds all values with some room.  zero: let it begin at 0.

    >>> spanning("errors", [3.0, 20.0], zero=True).low
    0.0
    """
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        room = (high / low) ** 0.05 if high > low else 2.0
        return Axis(label, low / room, high * room, log=True, share=share)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    top = high + room
    if share:
        top = min(top, 1.0)
    return Axis(label, 0.0 if zero else low - room, top, share=share)
