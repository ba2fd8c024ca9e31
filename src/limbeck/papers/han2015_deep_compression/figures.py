"""How many bytes a network takes on disk, and its codes with fixed lengths, with Huffman's and ideally."""

from torch import nn

from limbeck.compress import coded_size
from limbeck.compress.weights import Shared, computed_by, layers_of, weights_of_layer
from limbeck.exporting import exported_bytes
from limbeck.papers.measures import RowView

__all__ = ["sizes"]


def sizes(view: RowView) -> dict[str, float]:
    """Return the size of a row's network: the file as it is exported, and shares of its weights in float32.

    A share counts codes, positions and tables of centroids, and no biases, as the paper does.
    """
    model, dense = view.model(view.row.role), view.model("teacher")
    size, whole = exported_bytes(model), exported_bytes(dense)
    found = {"kilobytes": size / 1000, "ratio": whole / size}
    every = 4 * sum(each.numel() for each in dense.parameters() if each.dim() > 1)
    parts = _coded(model)
    if parts:
        for number, name in enumerate(("fixed_percent", "huffman_percent", "ideal_percent")):
            found[name] = 100 * sum(part[number] for part in parts) / every
    return found


def _coded(model: nn.Module) -> list[tuple[float, float, float]]:
    """Return what each layer's codes take, its centroids counted."""
    found: list[tuple[float, float, float]] = []
    for _, module in layers_of(model):
        for name, centroids in weights_of_layer(module, 1).items():
            for shared in computed_by(module, name):
                if isinstance(shared, Shared):
                    size = coded_size(shared.codes.long(), shared.mask, shared.bits)
                    table = centroids.numel() * centroids.element_size()
                    found.append((size.fixed + table, size.huffman + table, size.ideal + table))
    return found
