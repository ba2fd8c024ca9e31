"""A thin adapter that lets the Transformers Trainer train a distiller."""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, warn
from limbeck.networks import canonical_path, distinct
from limbeck.training.weight_files import with_aliases

__all__ = ["TrainerModel"]

_STUDENT = "distiller.student."
_CAUSAL = "ForCausalLM"  # what the Transformers library calls the loss of its causal models
_FEW = 8  # so few labels of a masked model may all be its input ids: it leaves one in ten as it is


class TrainerModel(nn.Module):
    """A distiller in the form that `transformers.Trainer` takes: keyword tensors in, a mapping with `loss` out.

    The student receives every keyword except `labels` and `index`.  The Trainer drops unknown keywords unless it has
    `remove_unused_columns=False`.

    Labels: a causal model predicts the next token, and by the library's convention its labels are the input ids.
    `shift=True` moves them by one place: place t is counted if label t+1 is not -100, as in the library's own loss, and
    without labels if neither token t nor t+1 is padding.  `shift=False` uses the labels as they are, as token
    classification needs.  There is no default for a causal head.

    Accumulation: the loss is the sum over all that the optimizer step counts, divided by that count, which the Trainer
    passes as the number of labels of the step.  A term that counts other places than the labelled ones cannot be
    divided by it: with accumulation or several processes such a batch raises InputError.  The Trainer does not count
    batches without `labels`; it averages the means of the accumulated batches.

    Saving: the state has the student's tensors under the student's own names, a tied one once, so that
    `Student.from_pretrained(checkpoint, config=student.config)` loads a checkpoint of the Trainer.  With `Trainer(...,
    callbacks=[model.callback()])` the checkpoint has the student's configuration as well, and schedules follow the
    Trainer's steps; a schedule without the callback raises InputError.

    Args:
        distiller: student, teacher and objective.
        shift: whether labels move by one place.  None means False for a head that is not causal; labels that equal the
            input ids then give a warning.

    Raises:
        InputError: if `shift` is missing for a causal head; or if a term counts other places than the labelled ones in
            a step of several batches.

    Example:
        >>> import limbeck as lb
        >>> class Student(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(3, 4)
        ...     def forward(self, pixels):
        ...         return self.linear(pixels)
        >>> model = TrainerModel(lb.Distiller(Student(), None, lb.methods.hard()))
        >>> sorted(model(pixels=torch.zeros(2, 3), labels=torch.tensor([0, 1])))
        ['logits', 'loss']
    """

    accepts_loss_kwargs = True  # has the Trainer count the labels of a step, and divide nothing itself
    _keys_to_ignore_on_save = None  # the Trainer reads it after it has loaded a checkpoint

    @checked
    def __init__(self, distiller: Distiller, *, shift: bool | None = None) -> None:
        super().__init__()
        if not isinstance(distiller, Distiller):
            raise InputError(f"distiller: found {checks.shown(distiller)}; expected a limbeck.Distiller")
        if shift not in (None, True, False):
            raise InputError(f"shift: found {checks.shown(shift)}; expected True or False")
        if shift is None and _is_causal(distiller.student):
            raise InputError(
                f"shift: found none for the causal head of {type(distiller.student).__name__}; expected True (labels"
                " are the input ids, as the Transformers library has them) or False (labels are already moved)"
            )
        self.distiller = distiller
        self.shift = shift
        self.loss_type = _CAUSAL if shift else None  # by it the Trainer leaves the first label of a row uncounted

    def forward(
        self,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Tensor,
    ) -> dict[str, Any]:
        """Return the distiller's loss and the student's logits.

        Args:
            labels: (N,) or (N, L) int64, -100 where there is none.
            index: (N,) int64, the position of each sample in its set, for teachers that look answers up.
            num_items_in_batch: how many labels all batches of the optimizer step have; None for this batch alone.
            inputs: what the student's forward takes.
        """
        if not inputs:
            raise InputError("inputs: found none for the student; set remove_unused_columns=False in the Trainer")
        batch = self._batch(labels, index, inputs)
        step = self.distiller.step
        outputs = self.distiller.outputs(batch, step)
        loss = self.distiller.objective(outputs, batch, step, self._counts(batch, num_items_in_batch))
        return {"loss": loss.total, "logits": outputs["student"].logits}

    def _batch(self, labels: Tensor | None, index: Tensor | None, inputs: Mapping[str, Tensor]) -> Batch:
        first = next(iter(inputs.values()))
        positions = torch.arange(len(first), device=first.device) if index is None else index
        padding = inputs.get("attention_mask")
        mask = None if padding is None or padding.dim() != 2 else padding.bool()
        if self.shift:
            labels, mask = self._shifted(labels, mask, inputs)
        elif labels is None or labels.dim() < 2:
            mask = None  # the padding of inputs whose samples have a label each is none of the labels' business
        elif _is_encoder_decoder(self.distiller.student):
            mask = labels != UNLABELLED  # the attention mask is that of the encoder
        if self.shift is None and labels is not None:
            _warn_of_copies(labels, mask, inputs)
        return Batch(index=positions, view=torch.zeros_like(positions), inputs=dict(inputs), labels=labels, mask=mask)

    def _shifted(
        self, labels: Tensor | None, mask: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        """Return the label of each place's next token, and which places count."""
        like = labels if labels is not None else mask if mask is not None else inputs.get("input_ids")
        if like is None or like.dim() != 2:
            found = "none" if like is None else str(tuple(like.shape))
            raise InputError(f"labels: found {found}; expected (N, L) with shift=True. Give them, or use shift=False")
        if labels is not None:
            labels = _next(labels, UNLABELLED)
            return labels, labels != UNLABELLED
        seen = torch.ones_like(like, dtype=torch.bool) if mask is None else mask
        return None, seen & _next(seen, False)

    def _counts(self, batch: Batch, items: Tensor | int | None) -> dict[str, Tensor | int] | None:
        """Return what each term is divided by; None where this batch is the whole step."""
        if items is None or batch.labels is None:
            return None
        items = int(torch.as_tensor(items).flatten()[0])
        labelled, given = int(batch.labelled().sum()), int((batch.labels != UNLABELLED).sum())
        if items in (labelled, given):
            return None
        if labelled != given:
            raise InputError(
                f"labels: found {given}, of which {labelled} are not padding; expected as many, since the Trainer"
                " divides by all of them. Give padding the label -100"
            )
        counts = self.distiller.objective.counts(batch)
        others = [name for name, count in counts.items() if int(count) != labelled]
        if others:
            raise InputError(
                f"term '{others[0]}': it counts {int(counts[others[0]])} places of a batch that has {labelled} labels,"
                f" and the Trainer tells of the step only that it has {items} labels; expected the same. Use"
                " gradient_accumulation_steps=1 on one process, label every place, or train with limbeck.fit"
            )
        return dict.fromkeys(counts, items)

    def callback(self) -> Any:
        """Return a callback for the Trainer: it tells schedules the step and writes the student's configuration."""
        from transformers import TrainerCallback
        from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

        distiller = self.distiller

        class Following(TrainerCallback):
            def on_init_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                distiller.step = state.global_step

            on_step_begin = on_init_end

            def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
                student = _unwrapped(distiller.student)
                for name in ("config", "generation_config"):
                    settings: Any = getattr(student, name, None)
                    if state.is_world_process_zero and folder.is_dir() and hasattr(settings, "save_pretrained"):
                        settings.save_pretrained(folder)

        return Following()

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the student's tensors under its own names, tied ones once, and the terms' under `distiller`."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        _, aliases = distinct(self.distiller.student)
        own = OrderedDict[str, Any]()
        for name, value in state.items():
            if not name.startswith(prefix + _STUDENT):
                own[name] = value
            elif (student := name.removeprefix(prefix + _STUDENT)) not in aliases:
                own[prefix + canonical_path(student)] = value
        if hasattr(state, "_metadata"):
            own._metadata = state._metadata  # type: ignore[attr-defined]  # noqa: SLF001 - torch's versions of modules
        return own

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over what `state_dict` gives; names of tied tensors that are left out are filled in."""
        tensors, aliases = distinct(self.distiller.student)
        names = {canonical_path(name): name for name in tensors}
        own = {names.get(name, name): value for name, value in state_dict.items()}
        own = with_aliases(own, aliases)
        students = tensors.keys() | aliases.keys()
        given = OrderedDict((_STUDENT + name if name in students else name, value) for name, value in own.items())
        if hasattr(state_dict, "_metadata"):
            given._metadata = state_dict._metadata  # type: ignore[attr-defined]  # noqa: SLF001
        return super().load_state_dict(given, strict=strict, assign=assign)


def _unwrapped(student: nn.Module) -> nn.Module:
    for inner in ("module", "_orig_mod"):
        student = getattr(student, inner, student)
    return student


def _is_encoder_decoder(student: nn.Module) -> bool:
    return bool(getattr(getattr(_unwrapped(student), "config", None), "is_encoder_decoder", False))


def _is_causal(student: nn.Module) -> bool:
    """Return whether a student is a decoder, of limbeck or of the Transformers library, that answers next tokens."""
    if getattr(_unwrapped(student), "causal", False) is True:
        return True
    if "transformers" not in sys.modules or _is_encoder_decoder(student):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = {kind.__name__ for kind in type(_unwrapped(student)).__mro__}
    heads = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return bool(names & heads) or any(name.endswith(("ForCausalLM", "ForConditionalGeneration")) for name in names)


def _warn_of_copies(labels: Tensor, mask: Tensor | None, inputs: Mapping[str, Tensor]) -> None:
    """Warn of labels that are the input ids: a student that is taught them copies its input."""
    ids = inputs.get("input_ids")
    if ids is None or ids.shape != labels.shape or labels.numel() < 2:
        return
    places = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    labelled = places & (labels != UNLABELLED)
    enough = bool(labelled.any()) and (int(labelled.sum()) >= _FEW or torch.equal(labelled, places))
    if enough and torch.equal(ids[labelled], labels[labelled]):
        warn(
            "labels: found the input ids themselves, which teaches the student to copy its input; a causal model needs"
            " TrainerModel(distiller, shift=True), or shift=False if it should copy"
        )


def _next(values: Tensor, end: int | bool) -> Tensor:
    """Return the next value of each row's places, and `end` at the last."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], end)], dim=1)
