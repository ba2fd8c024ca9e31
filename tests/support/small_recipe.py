"""A recipe that works, and what a refusal of one says."""

from typing import Any

import pytest

from limbeck.errors import RecipeError


def base() -> dict[str, Any]:
    return {
        "name": "base",
        "data": {"kind": "digits", "transfer": {"fraction": 0.5, "omit": [3]}},
        "teacher": {
            "model": {"kind": "mlp", "hidden": [8], "dropout": 0.2},
            "training": {"epochs": 2, "schedule": "step", "milestones": [1.0], "augment": {"shift": 1}},
            "method": {"name": "hard", "label_smoothing": 0.1},
            "seed": None,
        },
        "student": {"model": {"kind": "cnn", "channels": [4]}},
        "method": {"name": "kd", "temperature": {"kind": "linear", "start": 8.0, "end": 2.0, "steps": 5}, "alpha": 0.2},
        "training": {"epochs": 3, "optimizer": "adamw", "learning_rate": 0.01, "clip": 1.0},
        "validation": 100,
        "search": {"training.learning_rate": [0.01, 0.1], "method.alpha": [0.1, 0.2]},
        "seeds": [0, 1],
        "expect": {"gap_closed": 0.1},
    }


def refusal(call, *arguments, error=RecipeError) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
