"""Networks in parts with names, whose stages end with a ReLU."""

from torch import nn

__all__ = ["Rectified"]


class Rectified(nn.Sequential):
    """Parts in a sequence; the last module of the stem and of each stage is a ReLU.

    >>> from collections import OrderedDict
    >>> stage = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> Rectified(OrderedDict(stage1=stage, fc=nn.Linear(4, 2))).preactivations
    {'stage1': 'stage1.-1@input'}
    """

    @property
    def preactivations(self) -> dict[str, str]:
        """The place of what the last ReLU of the stem and of each stage reads, by the name of the part."""
        return {name: f"{name}.-1@input" for name, _ in self.named_children() if name.startswith(("stem", "stage"))}
