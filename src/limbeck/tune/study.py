"""A study: settings proposed one by one, each tried on the held-out part, kept where every process finds them."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from limbeck import checks
from limbeck.config import Recipe
from limbeck.errors import InputError, NonFiniteLossError, RunError, one_of
from limbeck.experiment.parts import Parts
from limbeck.experiment.trials import Trials
from limbeck.locks import exclusive
from limbeck.randomness import derive_seed
from limbeck.runs import RunFolder
from limbeck.training import Observer, Progress
from limbeck.training.progress import ignore
from limbeck.training.together import SHARED
from limbeck.tune.space import Choices, Range, Space, check_space

if TYPE_CHECKING:
    import optuna

__all__ = ["Trial", "Tuned", "check_study", "tune"]

_JOURNAL, _SPACE, _LOCK = "study.journal", "space.json", ".study.lock"
_NAME = "limbeck"
_METRICS = ("errors", "nll")
_UNPRUNED = 5  # trials that are trained to their end before any is cut short


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    values: by key.  figures: of the held-out part, means over the seeds; empty where it was cut short.
    state: "done", "cut short" (worse than the median of the others so far), "failed" or "running".
    """

    number: int
    values: Mapping[str, Any]
    state: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Tuned:
    """What a study came to: its trials so far, and the best with the recipe that it makes."""

    trials: tuple[Trial, ...]
    best: Trial
    recipe: Recipe

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        trials = [{"number": t.number, "values": dict(t.values), "state": t.state, **t.figures} for t in self.trials]
        return {"best": next(t for t in trials if t["number"] == self.best.number), "trials": trials}


def tune(
    recipe: Recipe,
    space: Space,
    folder: RunFolder,
    *,
    trials: int = 30,
    metric: Literal["errors", "nll"] = "errors",
    seeds: int = 1,
    together: int = 1,
    parts: Parts | None = None,
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
    cache: Path | None = None,
) -> Tuned:
    """Choose settings of a recipe on its held-out part: a sampler proposes, hopeless trainings are cut short.

    The sampler is the tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna, the median rule cuts short.
    trials: of the study in all, those of earlier calls and of other processes in the same folder included.
    metric: of the held-out part, made small; seeds: how many of the recipe's first seeds a setting is tried with.
    together: settings that are proposed at a time and trained on the same batches, a live teacher answering each once;
        what comes of a setting is the same, and each is cut short by itself.  All their students are in memory, and
        before they have ended neither the sampler nor the median rule hears of them.
    parts: what `vet` returned for the recipe without its search, if it was vetted already.
    The test set is not read, and the teacher's answers are computed once.
    Raises RunError for the folder of a study with another space, InputError where Optuna is missing.
    """
    check_study(recipe, space, trials=trials, metric=metric, seeds=seeds, together=together)
    plain = recipe.with_values({"search": {}})
    bench = Trials.of(plain, folder, parts=parts, say=say, cache=cache)
    study = _Study(plain, space, folder, metric, seeds)
    study.clear_stale()
    while study.left(trials):
        study.run_some(bench, min(together, trials), trials, watch, say)
    return study.outcome()


def check_study(recipe: Recipe, space: Space, *, trials: int, metric: str, seeds: int, together: int = 1) -> None:
    """Require what `tune` requires, before a folder is made."""
    checks.at_least("trials", trials, 1)
    checks.at_least("seeds", seeds, 1)
    checks.at_least("together", together, 1)
    if seeds > len(recipe.seeds):
        raise InputError(f"seeds: found {seeds}, expected at most {len(recipe.seeds)}, as many as the recipe has")
    if metric not in _METRICS:
        raise InputError(f"metric: found {metric!r}; {one_of(metric, _METRICS)}")
    check_space(recipe, space)
    if together > 1:
        _check_together(recipe, space, together)


def _check_together(recipe: Recipe, space: Space, together: int) -> None:
    """Require that settings can share their batches."""
    if not recipe.scheme.single:
        raise InputError(
            f"together: found {together}, but scheme {recipe.keys['scheme']['name']} is more than one training; try its"
            " settings one at a time"
        )
    for path in space:
        section, key, *_ = path.split(".")
        if section == "scheme" or (section == "training" and key in SHARED):
            raise InputError(
                f"together: found {together}, but {path} is to be chosen, which decides what batches there are; leave"
                " it out of the space, or try settings one at a time"
            )


@dataclass(frozen=True, eq=False)
class _Setting:
    """A trial that this process runs.  name: of its trainings, by what it sets, so that none is run twice."""

    trial: "optuna.Trial"
    values: Mapping[str, Any]
    candidate: Recipe
    name: str

    @property
    def shown(self) -> str:
        values = ", ".join(f"{path.rpartition('.')[2]} {_short(value)}" for path, value in self.values.items())
        return f"trial {self.trial.number}: {values}"


class _Study:
    """Optuna's study in the run folder, and what only one process at a time may do with it."""

    def __init__(self, recipe: Recipe, space: Space, folder: RunFolder, metric: str, seeds: int) -> None:
        self.recipe, self.space, self.folder = recipe, space, folder
        self.metric, self.seeds = metric, seeds
        self._agree()
        self._study = self._open()

    def _agree(self) -> None:
        """Keep what is studied beside the study, and refuse a study of something else."""
        wanted = {
            "metric": self.metric,
            "seeds": self.seeds,
            "space": {path: allowed.as_dict() for path, allowed in self.space.items()},
        }
        wanted = json.loads(json.dumps(wanted))
        path = self.folder.path / _SPACE
        with self._alone():
            if not path.is_file():
                self.folder.write_json(_SPACE, wanted)
                return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise RunError(f"study: '{path}' is damaged; start a new study without --study") from None
        for key in wanted:
            if not isinstance(found, dict) or found.get(key) != wanted[key]:
                there = found.get(key) if isinstance(found, dict) else found
                raise RunError(
                    f"study: '{self.folder.path}' has another {key}, {checks.shown(there)} there and"
                    f" {checks.shown(wanted[key])} here; start a new study without --study"
                )

    def _open(self) -> "optuna.Study":
        try:
            import optuna

            from limbeck.tune.journal import Journal
        except ImportError:
            raise InputError("tune: Optuna is not installed; pip install 'limbeck[tune]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self.folder.path / _JOURNAL
        with warnings.catch_warnings(), self._alone(), self.folder.writing(_JOURNAL):
            warnings.simplefilter("ignore")
            try:
                return optuna.create_study(
                    study_name=_NAME,
                    storage=optuna.storages.JournalStorage(Journal(path)),
                    load_if_exists=True,
                    direction="minimize",
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=self._warmup()),
                )
            except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
                raise RunError(
                    f"study: '{path}' is damaged ({type(error).__name__}); start a new study without --study"
                ) from None

    def _warmup(self) -> int:
        return max(1, self.recipe.training.epochs // 4)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with exclusive(
            self.folder.path / _LOCK, wait=True, busy=f"study: another process writes in '{self.folder.path}'"
        ):
            yield

    def clear_stale(self) -> None:
        """Give up the trials whose process is gone, and put their values in front of the queue."""
        import optuna

        with self._alone():
            for trial in self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
                try:
                    with exclusive(self._held(trial.number), wait=False, busy=""):
                        self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                        self._study.enqueue_trial(trial.params)
                except RunError:
                    continue

    def left(self, trials: int) -> bool:
        """Return whether the study has fewer trials, finished or running, than it is to have."""
        import optuna

        states = optuna.trial.TrialState
        counted = self._study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED, states.RUNNING])
        return len(counted) < trials

    def run_some(self, bench: Trials, together: int, trials: int, watch: Observer, say: Callable[[str], None]) -> None:
        """Try the next settings, so many at a time at most."""
        with ExitStack() as stack:
            asked: list[_Setting] = []
            with self._alone():
                while len(asked) < together and self.left(trials):
                    asked.append(self._ask(stack))
            distinct = list({setting.name: setting for setting in reversed(asked)}.values())[::-1]
            self._try(bench, distinct, watch, say)
            for setting in asked:
                if setting not in distinct:  # proposed twice: what the first came to is read
                    self._try(bench, [setting], watch, say)

    def _ask(self, stack: ExitStack) -> _Setting:
        """Let a setting be proposed, and hold its trial for as long as the stack lives."""
        import optuna

        trial = self._study.ask()
        own = derive_seed(self.recipe.seeds[0], "trial", trial.number) % 2**32  # no two processes draw the same
        self._study.sampler = optuna.samplers.TPESampler(seed=own)
        stack.enter_context(exclusive(self._held(trial.number), wait=False, busy=""))
        values = {path: _suggest(trial, path, allowed) for path, allowed in self.space.items()}
        address = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
        return _Setting(trial, values, self.recipe.with_values(values), f"trial-{address}")

    def _try(self, bench: Trials, settings: Sequence[_Setting], watch: Observer, say: Callable[[str], None]) -> None:
        """Train settings on every seed, each until it drops out, and tell the study what came of it."""
        import optuna

        found: dict[_Setting, list[Mapping[str, float]]] = {setting: [] for setting in settings}
        for number, seed in enumerate(self.recipe.seeds[: self.seeds]):
            names = {f"{setting.name}-{seed}": setting for setting in found}
            looked = self._cutting({name: each.trial for name, each in names.items()}, watch) if number == 0 else watch
            for name, outcome in self._attempt(bench, names, seed, looked).items():
                setting = names[name]
                if not isinstance(outcome, Exception):
                    found[setting].append(outcome)
                    continue
                del found[setting]
                self._study.tell(setting.trial, state=optuna.trial.TrialState.PRUNED)
                say(f"{setting.shown}: {'cut short' if isinstance(outcome, optuna.TrialPruned) else outcome}")
        for setting, each in found.items():
            figures = {figure: fmean(one[figure] for one in each) for figure in _METRICS}
            for name, value in figures.items():
                setting.trial.set_user_attr(name, value)
            self._study.tell(setting.trial, figures[self.metric])
            say(f"{setting.shown}: {figures['errors']:g} held-out errors, nll {figures['nll']:.4f}")

    def _attempt(
        self, bench: Trials, named: Mapping[str, _Setting], seed: int, watch: Observer
    ) -> Mapping[str, Mapping[str, float] | Exception]:
        """Train settings on a seed, one by its scheme and several on the same batches."""
        import optuna

        drops_out = (NonFiniteLossError, optuna.TrialPruned)
        if len(named) > 1:
            candidates = {name: setting.candidate for name, setting in named.items()}
            return bench.attempt_together(candidates, seed, watch=watch, drops_out=drops_out)
        outcomes: dict[str, Mapping[str, float] | Exception] = {}
        for name, setting in named.items():
            try:
                outcomes[name] = bench.attempt(setting.candidate, seed, name=name, watch=watch)
            except drops_out as error:
                outcomes[name] = error
        return outcomes

    def _cutting(self, trials: Mapping[str, "optuna.Trial"], watch: Observer) -> Observer:
        """Return an observer that ends a training that is worse than the median of the others at the same epoch.

        trials: by the names of their trainings.
        """
        import optuna

        def look(progress: Progress) -> None:
            watch(progress)
            trial = trials.get(progress.label)
            if trial is not None and progress.epoch_ended and progress.metrics:
                trial.report(progress.metrics[self.metric], progress.epoch)
                if progress.epoch < progress.epochs and trial.should_prune():
                    raise optuna.TrialPruned

        return look

    def _held(self, number: int) -> Path:
        return self.folder.path / "trials" / f"{number}.lock"

    def outcome(self) -> Tuned:
        """Return what all trials came to; RunError where none was trained to its end."""
        import optuna

        states = optuna.trial.TrialState
        names = {states.COMPLETE: "done", states.PRUNED: "cut short", states.FAIL: "failed", states.RUNNING: "running"}
        trials = tuple(
            Trial(
                each.number,
                {path: _decoded(self.space[path], value) for path, value in each.params.items()},
                names[each.state],
                {name: each.user_attrs[name] for name in _METRICS if name in each.user_attrs},
            )
            for each in self._study.get_trials(deepcopy=False)
            if each.state in names
        )
        done = [trial for trial in trials if trial.state == "done"]
        if not done:
            raise RunError("study: no trial finished; set more trials or other values")
        other = "nll" if self.metric == "errors" else "errors"
        best = min(done, key=lambda trial: (trial.figures[self.metric], trial.figures[other], trial.number))
        return Tuned(trials, best, self.recipe.with_values(best.values))


def _suggest(trial: "optuna.Trial", path: str, allowed: Range | Choices) -> Any:
    if isinstance(allowed, Choices):
        return _decoded(allowed, trial.suggest_categorical(path, [json.dumps(value) for value in allowed.values]))
    if allowed.whole:
        return trial.suggest_int(path, int(allowed.low), int(allowed.high), log=allowed.log)
    return trial.suggest_float(path, allowed.low, allowed.high, log=allowed.log)


def _decoded(allowed: Range | Choices, value: Any) -> Any:
    return json.loads(value) if isinstance(allowed, Choices) else value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else checks.shown(value)
