"""One peer of a recipe, trained in a group of its own that meets the others in a folder."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from limbeck import checks
from limbeck.config import Recipe
from limbeck.errors import InputError, Interrupted, LimbeckError, RecipeError, RunError
from limbeck.evaluation import Metrics, evaluate
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.sameness import same_as_before
from limbeck.peers import Exchange, fit_group
from limbeck.ranks import first_does, is_first
from limbeck.runs import RunFolder
from limbeck.schemes.peers import PeersScheme
from limbeck.training import Observer, Result
from limbeck.training.progress import ignore

__all__ = ["GroupOutcome", "GroupSettings", "agreement", "codistill", "peers_of", "seed_of"]


@dataclass(frozen=True)
class GroupOutcome:
    """What a group came to: its training, its test figures, and the step at which it last heard of each other one."""

    group: int
    groups: int
    seed: int
    result: Result
    test: Metrics
    heard: Mapping[int, int | None]

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {
            "group": self.group,
            "groups": self.groups,
            "seed": self.seed,
            "steps": self.result.steps,
            "epoch": self.result.epoch,
            "validation": dict(self.result.metrics),
            "test": self.test.as_dict(),
            "heard": {str(group): step for group, step in self.heard.items()},
        }


@dataclass(frozen=True)
class GroupSettings:
    """Where and how the groups of a recipe meet; the keys are those of `Exchange`."""

    folder: Path
    group: int
    wait: bool = False
    lost_after: float = 60.0

    def __post_init__(self) -> None:
        checks.positive("lost_after", self.lost_after)


def peers_of(recipe: Recipe, group: int) -> PeersScheme:
    """Return the scheme of a recipe that can be trained in groups; RecipeError for another."""
    scheme = recipe.scheme
    if not isinstance(scheme, PeersScheme):
        raise RecipeError("scheme.name: found a scheme without peers; use codistillation or mutual")
    if scheme.update != "simultaneous":
        raise RecipeError("scheme.update: found sequential, but groups update at the same time; set simultaneous")
    if recipe.refit or recipe.search:
        key = "refit" if recipe.refit else "search"
        raise RecipeError(f"{key}: found for a group, which makes one training without choices; leave it out")
    if not 1 <= group <= scheme.count:
        raise InputError(f"group: found {group}, expected 1 to {scheme.count}, the peers of the recipe")
    return scheme


def seed_of(recipe: Recipe, seed: int | None) -> int:
    """Return one of a recipe's seeds, its first by default."""
    if seed is not None and seed not in recipe.seeds:
        raise InputError(f"seed: found {seed}, expected one of the recipe's: {', '.join(map(str, recipe.seeds))}")
    return recipe.seeds[0] if seed is None else seed


def agreement(recipe: Recipe, parts: Parts, seed: int) -> dict[str, Any]:
    """Return what all groups must have in common, by name; how each trains is its own affair."""
    networks = [recipe.student, *recipe.networks]
    return {
        "data": parts.transfer.source,
        "samples": [len(parts.transfer), len(parts.held_out or ())],
        "classes": parts.train.classes,
        **{f"scheme.{key}": value for key, value in recipe.keys["scheme"].items() if key != "models"},
        "networks": [{**network.keys(), "folder": network.code()} for network in networks],
        "seed": seed,
    }


def codistill(
    recipe: Recipe,
    folder: RunFolder,
    settings: GroupSettings,
    *,
    seed: int | None = None,
    resumed: bool = False,
    parts: Parts | None = None,
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
) -> GroupOutcome:
    """Train one of a recipe's peers, and measure it on the test set.

    seed: one of the recipe's, by default its first.  resumed: whether the folder's run has begun before.
    A group that the others refuse leaves no folder.
    """
    scheme = peers_of(recipe, settings.group)
    parts = prepare(recipe) if parts is None else parts
    seed = seed_of(recipe, seed)
    builder = SeedBuilder(recipe, parts, seed)
    peer = scheme.alone_in_a_group(settings.group, builder)
    exchange = Exchange(
        settings.folder,
        settings.group,
        scheme.count,
        agreement(recipe, parts, seed),
        run=folder.path.name,
        wait=settings.wait,
        lost_after=settings.lost_after,
        say=say,
    )
    unit = f"peer_{settings.group}-{seed}"
    peer = replace(peer, folder=folder.path / unit, label=unit)
    if resumed:
        first_does(lambda: _same_as_before(folder, settings.group, seed))
    same_as_before(recipe, folder, parts)
    folder.note(exchange={**asdict(settings), "folder": str(settings.folder), "seed": seed})
    try:
        result = fit_group(peer, exchange, every=scheme.period, resumed=resumed, watch=watch)
    except Interrupted:
        raise
    except LimbeckError:
        if is_first() and not resumed and not exchange.admitted:
            folder.discard()
        raise
    folder.read_test_set(f"final figures of group {settings.group}")
    test = evaluate(result.student, parts.test)
    heard = {group: exchange.step_of(group) for group in exchange.others}
    outcome = GroupOutcome(settings.group, scheme.count, seed, result, test, heard)
    folder.write_json("group.json", outcome.as_dict())
    return outcome


def _same_as_before(folder: RunFolder, group: int, seed: int) -> None:
    """Refuse to go on with a run of another group or seed, or with one that is of no group."""
    known = folder.noted("exchange")
    if not isinstance(known, dict):
        raise RunError(f"resume: '{folder.path}' is not a run of a group; start a new run without --resume")
    for key, here in (("group", group), ("seed", seed)):
        there = known.get(key, here)
        if there != here:
            raise RunError(
                f"resume: '{folder.path}' is a run of {key} {checks.shown(there)}, found {here}; give it --{key} "
                f"{checks.shown(there)}, or start a new run without --resume"
            )
