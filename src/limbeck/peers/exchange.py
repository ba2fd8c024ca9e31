"""The folder that groups share: where each publishes what it has learnt, and all that they ever know of each other."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import checks
from limbeck.errors import CheckpointError, InputError, RunError
from limbeck.locks import exclusive
from limbeck.peers.predictions import Predictions
from limbeck.training import load_weights, save_weights
from limbeck.training.checkpoints import digest, read_sealed, write_sealed

__all__ = ["Exchange", "Publication"]

_KEPT = 2
"""Publications of a group that are always kept: the newest, and one to fall back on."""
_NAME = re.compile(r"(step|ended)-(\d{12})\.([0-9a-f]{64})\.safetensors")
_CARD, _NEEDS = "group.json", "needs.json"


@dataclass(frozen=True, order=True)
class Publication:
    """What a group published of its network: after how many steps, and whether these were its last."""

    step: int
    ended: bool
    path: Path
    sha256: str


@dataclass
class Exchange:
    """A group's door to the others: it publishes here, and takes what they have published.

    folder: shared by all groups.  group: of 1 to `groups`.
    agreement: what must be the same for all, by name; it is published and compared.
    run: the name of the run that publishes; another one of the same group is refused.
    wait: for the others to have come as far, before each exchange.
        What a group may take once more, since it may be killed and go on from a checkpoint, is kept for it.
    lost_after: seconds without anything new from a group, after which it is not waited for; what it said last stays.
    awaited: the groups that `ready` found behind.
    admitted: whether this group has ever entered.

    A publication is a safetensors file whose name holds its step and its SHA-256; it is written aside and renamed.
    """

    folder: Path
    group: int
    groups: int
    agreement: Mapping[str, Any]
    run: str = "run"
    wait: bool = False
    lost_after: float = 60.0
    say: Callable[[str], None] = lambda line: None
    admitted: bool = field(default=False, init=False)
    awaited: list[int] = field(default_factory=list, init=False)
    _taken: dict[int, Publication] = field(default_factory=dict)
    _heard: dict[int, tuple[int | None, float]] = field(default_factory=dict)
    _lost: set[int] = field(default_factory=set)
    _damaged: set[str] = field(default_factory=set)
    _agreed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        checks.at_least("groups", self.groups, 1)
        if self.groups < 2:
            raise InputError("groups: found 1, expected 2 or more; a single one has no other to learn from")
        checks.at_least("group", self.group, 1)
        if self.group > self.groups:
            raise InputError(f"group: found {self.group}, expected 1 to {self.groups}, one for each peer")
        checks.positive("lost_after", self.lost_after)

    @property
    def others(self) -> list[int]:
        """The other groups."""
        return [group for group in range(1, self.groups + 1) if group != self.group]

    @property
    def place(self) -> Path:
        """Where this group publishes."""
        return self._place(self.group)

    # -- coming and going ---------------------------------------------------------------------------------------------

    @contextmanager
    def entered(self, step: int, *, resumed: bool) -> Iterator[None]:
        """Hold this group's place for the scope, and say what this group takes for agreed.

        step: that it goes on from.  What it published of later ones is taken back, but where it goes in step: there it
        publishes the same again, and another group may be about to take it.
        resumed: whether the run has been here before.  RunError where the folder cannot be written, another process
        is this group already, another run was, or a group that is here has agreed to something else.
        """
        busy = f"exchange: group {self.group} is running in '{self.folder}' already; give this one another number"
        if not self.place.is_dir():  # which would make a stranger of a group that is refused
            self._admit(resumed=resumed)
        with self._writing():
            self.place.mkdir(parents=True, exist_ok=True)
        with exclusive(self.place / ".lock", wait=False, busy=busy):
            self._admit(resumed=resumed)
            with self._writing():
                write_sealed(self.place / _CARD, {"run": self.run, "agreement": dict(self.agreement)})
                for publication in self._of(self.group):
                    if publication.step > step and not self.wait:
                        publication.path.unlink(missing_ok=True)
            self.admitted = True
            yield

    def _admit(self, *, resumed: bool) -> None:
        """Refuse another run of this group, groups that have agreed to something else, and those beyond `groups`."""
        card = self.place / _CARD
        known = read_sealed(card) if card.is_file() else None
        if known is not None and (known.get("run") != self.run or not resumed):
            raise RunError(
                f"exchange: '{self.place}' has what another run published as group {self.group} "
                f"({known.get('run')}); resume that run, or name another folder"
            )
        for group in self.others:
            self._compare(group)
        strangers = [path.name for path in self.folder.glob("group-*") if path.name not in self._names()]
        if strangers:
            raise RunError(
                f"exchange: '{self.folder / strangers[0]}' is of none of {self.groups} groups; let all run the "
                "same recipe, or name another folder"
            )

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, model: nn.Module, step: int, *, ended: bool = False) -> Path:
        """Write a network, or its predictions, for the others, and delete what none of them can need any more."""
        aside = self.place / ".aside.safetensors"
        with self._writing():
            save_weights(model, aside)
            final = self.place / f"{'ended' if ended else 'step'}-{step:012d}.{digest(aside)}.safetensors"
            aside.replace(final)
            needed = self._needed()
            for old in self._of(self.group)[:-_KEPT]:
                if old.step < needed:
                    old.path.unlink(missing_ok=True)
        return final

    def needs(self, step: int) -> None:
        """Tell the others that this group may take what they publish of a step, or of a later one, once more."""
        with self._writing():
            write_sealed(self.place / _NEEDS, {"step": step})

    def _needed(self) -> float:
        """Return the first step whose publication a group that goes in step may take once more."""
        ends = {group for group in self.others if any(each.ended for each in self._of(group))}
        told = [self._place(group) / _NEEDS for group in self.others if group not in self._lost | ends]
        steps = [read_sealed(path).get("step") for path in told if path.is_file()] if self.wait else []
        return min((step if isinstance(step, int) else 0 for step in steps), default=math.inf)

    # -- taking -------------------------------------------------------------------------------------------------------

    def ready(self, step: int) -> bool:
        """Whether to go on at a step: there is nobody to wait for.

        A group is waited for until it has published something of this step or a later one, has ended, or is lost.
        """
        now = time.monotonic()
        self.awaited = []
        for group in self.others:
            newest, last = max(self._of(group), default=None), self._last_written(group)
            before, since = self._heard.get(group, (None, now))
            if last != before or group not in self._heard:
                self._heard[group] = (last, now)
                if group in self._lost and newest is not None:
                    self._lost.discard(group)
                    self.say(f"group {group} is back: it has published its step {newest.step}")
            behind = newest is None or (newest.step < step and not newest.ended)
            gone = now - self._heard[group][1] >= self.lost_after
            if behind and gone and group not in self._lost:
                self._lost.add(group)
                mend = "continuing without it"
                if newest is not None:
                    mend = f"continuing with its step {newest.step}, and not waiting for it"
                self.say(f"group {group} is lost: nothing new for {now - since:.0f} s; {mend}")
            if behind and group not in self._lost:
                self.awaited.append(group)
        return not (self.wait and self.awaited)

    def take(self, group: int, model: nn.Module, step: int) -> bool:
        """Fill a network, or predictions, with what a group published, and return whether there was anything new.

        What it published of this very step is taken, where that is there, and else the newest.  What is damaged is
        told once and passed over; then what was taken before stays.
        """
        found = sorted(self._of(group), key=lambda each: (each.step == step, each), reverse=True)
        if self.wait:  # at the end of a training both may be there, and what was shown in step is wanted
            found.sort(key=lambda each: each.step == step and not each.ended, reverse=True)
        for publication in found:
            if publication == self._taken.get(group) and publication.path.name not in self._damaged:
                return False
            if self._loaded(group, publication, model):
                self._taken[group] = publication
                return True
        return False

    def step_of(self, group: int) -> int | None:
        """Return the step of what was taken from a group; None where nothing was."""
        taken = self._taken.get(group)
        return None if taken is None else taken.step

    # -- parts --------------------------------------------------------------------------------------------------------

    def _loaded(self, group: int, publication: Publication, model: nn.Module) -> bool:
        name = publication.path.name
        if name in self._damaged:
            return False
        try:
            if digest(publication.path) != publication.sha256:
                raise CheckpointError("wrong checksum")
            if isinstance(model, Predictions):
                model.read(publication.path)
            else:
                load_weights(model, publication.path)
        except FileNotFoundError:  # replaced by a newer one in this moment
            return False
        except (OSError, CheckpointError) as error:
            self._damaged.add(name)
            self.say(f"group {group}: '{publication.path}' is damaged ({error}); going on with what it said before")
            return False
        self._compare(group)
        return True

    def _compare(self, group: int) -> None:
        """Refuse a group that takes something else for agreed."""
        card = self._place(group) / _CARD
        if group in self._agreed or not card.is_file():
            return
        theirs, ours = read_sealed(card).get("agreement"), json.loads(json.dumps(dict(self.agreement)))
        if not isinstance(theirs, dict):
            raise CheckpointError(f"exchange: '{card}' is damaged (it has no agreement); delete '{card.parent}'")
        for key in sorted({*theirs, *ours}):
            if theirs.get(key) != ours.get(key):
                raise RunError(
                    f"exchange: group {group} has {key} {checks.shown(theirs.get(key))}, this group "
                    f"{self.group} {checks.shown(ours.get(key))}; run the same recipe in all groups"
                )
        self._agreed.add(group)

    def _of(self, group: int) -> list[Publication]:
        """Return what a group has published, in the order of its steps."""
        named = ((path, _NAME.fullmatch(path.name)) for path in self._place(group).glob("*.safetensors"))
        return sorted(
            Publication(int(parts[2]), parts[1] == "ended", path, parts[3])
            for path, parts in named
            if parts is not None
        )

    def _last_written(self, group: int) -> int | None:
        """Return when a group published last, also of a step that it has published before; None where it never did."""
        times = []
        for publication in self._of(group):
            with suppress(FileNotFoundError):
                times.append(publication.path.stat().st_mtime_ns)
        return max(times, default=None)

    def _place(self, group: int) -> Path:
        return self.folder / f"group-{group}"

    def _names(self) -> set[str]:
        return {self._place(group).name for group in range(1, self.groups + 1)}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"exchange: cannot write in '{self.folder}' ({error.strerror or error}); name a folder that all groups "
                "can write in"
            ) from None
