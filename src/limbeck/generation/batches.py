"""Generated sequences as a batch to learn from."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError
from limbeck.generation.generated import Generated, checked_inputs
from limbeck.tasks import TOKENS, UNLABELLED

__all__ = ["generated_batch"]


@checked
def generated_batch(
    batch: Batch, generated: Generated, *, by: str, step: int | None = None, temperature: float | None = None
) -> Batch:
    """Return a batch whose targets are what a model generated for the prompts or sources of another.

    Labels are shifted as everywhere: the label of a place is the token that follows it.  Places in the prompt have
    none.  Who generated the batch is in `extras["generated"]`; stored answers are refused for it, since they belong to
    other tokens.

    Args:
        batch: the prompts, token ids (N, P) or {input_ids, attention_mask}; with decoder_input_ids the sources of an
            encoder and decoder.
        generated: one sequence for each sample (N, L).
        by: who generated it, such as "student".
        step: the step of the training at which it did.
        temperature: of the sampling; None where nothing was drawn.

    Returns:
        The batch with {input_ids, attention_mask} (N, P+L), padded on the right, or new decoder_input_ids (N, L); and
        labels and mask of the same shape.

    Raises:
        InputError: if there is more than one sequence for each sample.

    Example:
        >>> found = Generated(torch.tensor([[4, 2]]), torch.tensor([[True, True]]), *torch.zeros(2, 1))
        >>> made = generated_batch(Batch.of(torch.tensor([[7, 8]])), found, by="student", step=3)
        >>> made.inputs["input_ids"].tolist(), made.labels.tolist()
        ([[7, 8, 4, 2]], [[-100, 4, 2, -100]])
        >>> made.extras["generated"]
        {'by': 'student', 'step': 3, 'temperature': None}
    """
    inputs, ids, mask = checked_inputs(batch.inputs)
    if generated.tokens.dim() != 2 or len(generated.tokens) != len(ids):
        raise InputError(
            f"generated: found tokens {tuple(generated.tokens.shape)}; expected ({len(ids)}, L), one sequence for each"
            " sample. Take best() of a beam search"
        )
    tokens, counted = generated.tokens.to(ids.device), generated.mask.to(ids.device)
    if isinstance(inputs, Mapping) and "decoder_input_ids" in inputs:
        begin = inputs["decoder_input_ids"][:, :1]
        inputs = {**inputs, "decoder_input_ids": torch.cat([begin, tokens[:, :-1]], 1)}
        labels = tokens.masked_fill(~counted, UNLABELLED)
    else:
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        whole, there = torch.cat([ids, tokens], 1), torch.cat([real, counted], 1)
        answer = torch.cat([torch.zeros_like(real), counted], 1)
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)  # real tokens in front, in their order
        whole, there, answer = (each.gather(1, order) for each in (whole * there, there, answer))
        inputs = {"input_ids": whole, "attention_mask": there.to(ids.dtype if mask is None else mask.dtype)}
        labels = _shifted(whole.masked_fill(~answer, UNLABELLED))
    mask = labels != UNLABELLED
    about = {"by": by, "step": step, "temperature": temperature}
    return replace(
        batch, inputs=inputs, labels=labels, mask=mask, task=TOKENS, extras={**batch.extras, "generated": about}
    )


def _shifted(labels: Tensor) -> Tensor:
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=UNLABELLED)
