"""A trained model of a finished run, ready to answer raw inputs where the run's data is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.data import Description
from limbeck.data.text_inputs import context, prompts
from limbeck.data.vocabulary import known_items
from limbeck.devices import place
from limbeck.errors import DataWarning, InputError, ModelError, one_of, warn
from limbeck.evaluation import parameters, predict
from limbeck.generation import greedy
from limbeck.outputs import run_model
from limbeck.results.parity import Exported
from limbeck.tasks import TOKENS, Task, task_named
from limbeck.teachers.answers import LookedUpAnswers

if TYPE_CHECKING:
    from limbeck.results.finished import FinishedRun

__all__ = ["TrainedModel", "load"]

_WRITING = ("seq2seq", "chat")
_NEXT = 3  # tokens that a language model predicts for a text


@checked
def load(
    run: Path, role: str = "distilled", *, seed: int | None = None, device: str = "cpu", trust: bool = False
) -> "TrainedModel":
    """Load a trained model of a finished run; the run's data is not read.

    Args:
        run: the run's folder, or one that `limbeck export` made, which holds one model.
        role: "distilled", "alone", "teacher", or another role of the scheme.
        seed: of the training; by default the run's first.
        device: where the model answers.
        trust: import the code of factories that are outside of your project.

    Returns:
        The model, with its weights, in eval mode.

    Raises:
        RunError: if the folder is not a finished run, or its weights or code have changed.
        InputError: if there is no such role, seed or device.

    Example:
        student = lb.load("runs/my-student/20261129-194210-f95905")
        student.predict(images)
    """
    from limbeck.results.exported_folder import is_exported, read_exported
    from limbeck.results.finished import FinishedRun  # pydantic and YAML are for runs alone

    if is_exported(run):
        network, signature, own, its = read_exported(run, trust=trust)
        if (role, seed) not in ((own, None), (own, its), ("distilled", None)):
            raise InputError(f"role: found '{role}', seed {seed}; '{run}' holds one model, '{own}' of seed {its}")
        return TrainedModel(signature.students, network.to(place(device)).requires_grad_(False), own, its)
    finished = FinishedRun.read(run, trust=trust)
    if role not in finished.roles:
        raise InputError(f"role: found '{role}'; {one_of(role, finished.roles)}")
    if seed is not None and seed not in finished.seeds:
        raise InputError(f"seed: found {seed}; expected one of the run's: {', '.join(map(str, finished.seeds))}")
    seed = finished.seeds[0] if seed is None else seed
    model = finished.model(role, seed).to(place(device)).eval()
    if any(isinstance(module, LookedUpAnswers) for module in model.modules()):
        raise ModelError(
            f"role: '{role}' of '{run}' is no network: its answers to the run's own samples were made elsewhere. "
            "Load another role"
        )
    return TrainedModel(finished.signature.students, model.requires_grad_(False), role, seed, finished)


class TrainedModel:
    """A trained model with a description of what it takes and answers.

    Attributes:
        model: the network alone, in eval mode.  It takes inputs that are already scaled and normalised.
        role: its role in the run.
        seed: the seed of its training.
        description: what it takes and answers.
        run: the run that it was trained in; None if it was read from an exported folder.

    Example:
        student = lb.load("runs/my-student/20261129-194210-f95905")
        student.predict_proba(images)
    """

    def __init__(
        self, description: Description, model: nn.Module, role: str, seed: int, run: "FinishedRun | None" = None
    ) -> None:
        self.description, self.model, self.role, self.seed, self.run = description, model, role, seed, run

    def __repr__(self) -> str:
        size = f"{parameters(self.model):,} parameters"
        return f"TrainedModel({self.role!r}, {self.description.name!r}, {self.input_shape}, {size})"

    @property
    def task(self) -> Task:
        """What its answers are of."""
        return task_named(self.description.task)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes in the order of its outputs; their numbers as text where they have none."""
        return self.description.class_names or tuple(map(str, range(self.description.classes)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one raw sample."""
        return self.description.raw[0]

    def logits(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Return the model's answers to raw inputs, on the CPU.

        Args:
            inputs: (n, ...), as `Description.read` takes them: as the data set had them, before scaling.
            batch_size: samples in a batch.

        Returns:
            Logits (n, K); of task multilabel (n, C, 2), of dense (n, H, W, K), of ranking scores of the items (n, K),
            -inf for those that a row names as `known`, of regression the numbers (n, D).  Of a language model (n, V)
            for the token that comes after each text, which follows a sentence end.

        Raises:
            DataError: the inputs are not as the data set had them.
            DataWarning: (a warning) a table has categories that the training data did not have.
        """
        samples, notes = self.description.read(inputs)
        for note in notes:
            warn(note, DataWarning)
        if self.task == TOKENS:
            return self._next_tokens([text for text, _ in samples])
        logits = predict(self.model, self.description.samples(samples), batch_size=batch_size).cpu()
        if self.description.vocabulary and not self.description.form:
            for row, items in enumerate(known_items(inputs, self.class_names)):
                logits[row, items] = -torch.inf
        return logits

    def predict_proba(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Return the probability of each class for raw inputs.

        Args:
            inputs: as `logits` takes them.
            batch_size: samples in a batch.

        Returns:
            (n, K) float32 that sums to 1 in each row; of task multilabel (n, C), each between 0 and 1; of dense
            (n, H, W, K).

        Raises:
            InputError: the task is a regression, which has no classes.
        """
        return self.task.probabilities(self.logits(inputs, batch_size))

    def predict(self, inputs: Any, batch_size: int = 256) -> Any:
        """Return what the model predicts for raw inputs.

        Args:
            inputs: as `logits` takes them.
            batch_size: samples in a batch.

        Returns:
            A list with the name of each sample's class; of task multilabel a list with a tuple of names for each
            sample; of dense a tensor (n, H, W) int64 with numbers of classes; of ranking a list with a tuple of the
            names of the first ten items for each user; of regression the numbers, (n,) or (n, D).  Of a language model
            a list with a tuple of the names of the three likeliest next tokens for each text; of chats, and of pairs of
            a source and a target, a list with the text that the model writes, its likeliest token at each step.
        """
        if self.description.form in _WRITING:
            return self._written(self.description.read(inputs)[0], batch_size)
        return self._named(self.logits(inputs, batch_size))

    def export(
        self,
        folder: Path,
        *,
        to: str = "safetensors",
        tolerance: float = 1e-4,
        normalisation: bool = False,
        quantize: str | None = None,
        agreement: float = 0.99,
        fixed_sizes: bool = False,
    ) -> Exported:
        """Write the model as a folder for others, once another process answers validation samples with it alike.

        Args:
            folder: a new one.
            to: "safetensors", "transformers", "torch-export" or "onnx".
            tolerance: the largest difference of an answer, as a share of the logits' spread.
            normalisation: whether the graph scales and normalises raw inputs.
            quantize: "int8" for 8-bit weights of ONNX Runtime.
            agreement: the least share of predictions that 8-bit weights leave as they were.
            fixed_sizes: whether a graph takes images of the data's size alone; see `limbeck.export`.

        Returns:
            The folder, the bytes of its file, the parity, and the time of an answer of both.

        Raises:
            InputError: if the model was read from an exported folder, or a value is out of range.
            ExportError: if the model cannot be written in this format, or the answers differ; then nothing is left.
            RunError: if the folder exists, or the run's data is not there.
        """
        from limbeck.results.exported import Options, export_run

        if self.run is None:
            raise InputError("export: found a model of an exported folder; expected one of a run. Load the run")
        options = Options(to, tolerance, normalisation, quantize, agreement, fixed_sizes)
        return export_run(self.run, folder, role=self.role, seed=self.seed, options=options)

    def answers(self, inputs: Any, batch_size: int = 256) -> tuple[Any, Tensor | None]:
        """Return what `predict` and `predict_proba` return, of one pass; None where there are no probabilities."""
        if self.description.form in _WRITING:
            return self.predict(inputs, batch_size), None
        logits = self.logits(inputs, batch_size)
        return self._named(logits), self.task.probabilities(logits) if self.task.has_probabilities else None

    def _written(self, texts: Sequence[tuple[str, Any]], batch_size: int) -> list[str]:
        """Return what the model writes for each text."""
        like = self.description.blank()
        tokenizer, found = self.description.tokenizer, []
        if tokenizer is None:
            raise InputError(f"predict: '{self.description.name}' has no tokenizer; expected one to write texts")
        ends = [] if tokenizer.special.eos is None else [tokenizer.special.eos]
        for start in range(0, len(texts), batch_size):
            inputs = prompts(like, [text for text, _ in texts[start : start + batch_size]])
            inputs = {name: each.to(_device(self.model)) for name, each in inputs.items()}
            length = self.description.max_length
            if self.description.form == "chat":
                length = max(1, length - inputs["input_ids"].shape[1])
            written = greedy(self.model, inputs, length=length, ends=ends).lists()
            found += [tokenizer.decode([token for token in ids if token not in ends]) for ids in written]
        return found

    def _next_tokens(self, texts: Sequence[str]) -> Tensor:
        """Return logits (n, V) for the token that comes after each text."""
        tokenizer = self.description.tokenizer
        if self.description.form != "stream" or tokenizer is None:
            raise InputError(
                f"logits: '{self.description.name}' writes texts, one token after the other; expected a model with one"
                " answer. Use predict, or its network: model"
            )
        found = []
        with torch.no_grad():
            for text in texts:
                ids = torch.tensor([context(tokenizer, text)], device=_device(self.model))
                found.append(run_model(self.model, ids, task=TOKENS, role=self.role).logits[0, -1].cpu())
        return torch.stack(found)

    def _named(self, logits: Tensor) -> Any:
        if self.task == TOKENS:
            first = logits.topk(min(_NEXT, logits.shape[1]), dim=1).indices
            return [tuple(self.class_names[token] for token in row) for row in first.tolist()]
        return self.task.named(self.task.predictions(logits), self.class_names)


def _device(model: nn.Module) -> torch.device:
    return next((each.device for each in model.parameters()), torch.device("cpu"))
