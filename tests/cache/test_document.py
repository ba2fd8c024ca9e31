"""The page on stores: its examples run, and NumPy alone reads what limbeck wrote."""

import re
from pathlib import Path

import numpy as np
import torch

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"


def test_the_examples_run_and_numpy_alone_reads_a_store():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    found: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    stored, data, probabilities = found["stored"], found["data"], found["probabilities"]
    count = len(probabilities)
    from limbeck.randomness import derive_seed

    batch = data.train.batch(
        torch.arange(count), augment=found["views"]["augment"], seed=derive_seed(0, "data"), view=1
    )
    answer = stored(batch).sparse
    assert np.array_equal(answer.ids.numpy(), found["ids"])
    assert np.allclose(answer.at(4.0)[0].exp().numpy(), probabilities, atol=1e-6)
    own = found["teacher"].eval()(batch.inputs).detach()
    assert np.allclose((own / 4).softmax(-1).gather(-1, answer.ids).numpy(), probabilities, atol=1e-3)
    reader = blocks[1][blocks[1].index("header =") :]
    assert len(reader.strip().splitlines()) <= 12
    assert "torch" not in reader
