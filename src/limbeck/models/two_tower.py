"""Two towers: a vector for each user and one for each item, whose product is the score of the item for the user."""

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import ModelError

__all__ = ["TwoTower", "two_tower"]


class TwoTower(nn.Module):
    """Scores of all items for users: `user` gives the users' vectors (N, d), `items` is the linear layer on them.

    >>> two_tower((1,), classes=7, vocabulary=3, width=2)
    TwoTower(
      (user): Embedding(3, 2)
      (items): Linear(in_features=2, out_features=7, bias=True)
    )
    """

    def __init__(self, users: int, items: int, width: int, *, bias: bool) -> None:
        super().__init__()
        self.user = nn.Embedding(users, width)
        self.items = nn.Linear(width, items, bias=bias)
        nn.init.normal_(self.user.weight, std=width**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores (N, items) of users (N, 1), int64."""
        scores: Tensor = self.items(self.user(inputs.squeeze(1)))
        return scores


@checked
def two_tower(
    input_shape: int | Sequence[int], classes: int, vocabulary: int = 0, width: int = 50, bias: bool = True
) -> TwoTower:
    """Build a recommender of two towers, z_ui = p_u·q_i + b_i.

    Args:
        input_shape: (1,): a sample is the number of a user.
        classes: items, K.
        vocabulary: users; a recipe fills it in from its data.
        width: d, the size of the vectors.
        bias: whether each item has a number b_i that is added to its score for every user.

    Returns:
        A network from users (N, 1) int64 to scores (N, K).

    Raises:
        ModelError: if a sample is not the number of a user.
        InputError: if a value is out of range.

    Example:
        >>> import torch
        >>> two_tower((1,), classes=7, vocabulary=3)(torch.tensor([[2], [0]])).shape
        torch.Size([2, 7])

    Reference:
        Koren, Bell & Volinsky (2009), "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42(8).
    """
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if shape != (1,) or vocabulary < 1:
        raise ModelError(
            f"kind: two_tower takes the number of a user, (1,), and samples have shape {shape} with {vocabulary} names;"
            " use data of kind interactions"
        )
    checks.at_least("classes", classes, 1)
    checks.at_least("width", width, 1)
    return TwoTower(vocabulary, classes, width, bias=bias)
