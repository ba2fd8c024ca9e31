"""What decides a network's answers and its training, as text: the tree of its modules, module by module."""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.identity import functions
from limbeck.identity.tensors import known_from_files, tensor_digest

if TYPE_CHECKING:
    from limbeck.identity.content import Reader

__all__ = ["described", "inner", "weights_digest"]

_AROUND = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
_PREFIXES = r"(?:(?<=^)|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_BY_COMPILE = frozenset({"_compiled_call_impl", "_is_torch_compile", "_compile_kwargs"})
"""What torch.compile leaves on the network that it wraps; the last once Lightning is imported, which replaces it."""
_INTERNAL = frozenset(vars(nn.Module())) | _BY_COMPILE
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def inner(module: nn.Module) -> nn.Module:
    """Return the network inside what DDP, compile and the like put around it."""
    while name := _AROUND.get(type(module).__name__):
        if not type(module).__module__.startswith("torch.") or not hasattr(module, name):
            break
        module = getattr(module, name)
    return module


def described(module: nn.Module, reader: "Reader") -> str:
    """Return text that says what decides a network's answers, and where the reader asks, its training.

    These are its modules in their order, each with its class, what `extra_repr` says, its attributes, parameters,
    buffers, hooks and extra state; and which parameters are one.  What `forward` itself sets is left out.
    """
    module = inner(module)
    if isinstance(module, torch.jit.ScriptModule):
        return _scripted(module, reader)
    own = vars(module)
    told = [_code(module, reader), f"says {_said(module)}", f"attributes {_held(module, reader)}"]
    for name, parameter in sorted(module._parameters.items()):  # noqa: SLF001 - those that are None too
        trained = reader.trained and parameter is not None and parameter.requires_grad
        told.append(f"parameter {name} {_value(parameter, name, reader)} {trained}")
        if trained and (hooks := _gradient_hooks(parameter)):
            told.append(f"hooks of {name} {reader.all(hooks, f'.{name}')}")
    for name, buffer in sorted(module._buffers.items()):  # noqa: SLF001
        kept = name not in own["_non_persistent_buffers_set"]
        if kept:
            told.append(f"buffer {name} {_value(buffer, name, reader)}")
        elif reader.trained or name not in functions.written(_kind(module)):
            told.append(f"buffer {name} {reader.read(buffer, f'.{name}')} alone")
    told += [f"{kind} {reader.all(own[kind].values(), f'.{kind}')}" for kind in _HOOKS if own.get(kind)]
    if reader.weights:
        told += [f"state {reader.read(part, '.state')}" for part in _further(module)]
    outermost, reader.inside = not reader.inside, True
    told += [f"module {name} {reader.read(child, f'.{name}')}" for name, child in module._modules.items()]  # noqa: SLF001
    if outermost:
        reader.inside = False
        told.append(f"tied {_tied(module)}")
        if reader.trained:
            modes = [name for name, part in module.named_modules() if part.training != module.training]
            told.append(f"modes {[re.sub(_PREFIXES, '', name) for name in modes]}")
    return " ".join(told)


def _value(tensor: Tensor | None, name: str, reader: "Reader") -> str:
    if tensor is None or reader.weights or torch.nn.parameter.is_lazy(tensor):
        return reader.read(tensor, f".{name}")
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _gradient_hooks(parameter: Any) -> list[Any]:
    """Return what a user has set to act on a parameter's gradient."""
    found = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))  # noqa: SLF001
    return [hook for hooks in found for hook in (hooks or {}).values()]


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over the names, types, shapes and values of a model's state: all that training changes.

    Of packed weights it is what they unpack to, and the extra state counts.

    >>> layer = nn.Linear(2, 2)
    >>> before = weights_digest(layer)
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1.0)
    >>> weights_digest(layer) == before
    False
    """
    from limbeck.identity.content import Reader

    reader, digest = Reader("model"), hashlib.sha256()
    state = [(re.sub(_PREFIXES, "", name), value) for name, value in model.state_dict(keep_vars=True).items()]
    for name, value in sorted(state, key=lambda item: item[0]):
        sized = isinstance(value, Tensor) and not torch.nn.parameter.is_lazy(value)
        if sized and known_from_files(value) is None and not value.is_quantized and value.layout == torch.strided:
            with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):
                plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(plain.numpy().data)
                continue
        told = tensor_digest(value, reader.unread) if isinstance(value, Tensor) else reader.read(value, f".{name}")
        digest.update(f"{name} {told}".encode())
    return digest.hexdigest()


def _code(module: nn.Module, reader: "Reader") -> str:
    if isinstance(module, torch.fx.GraphModule):
        return f"graph {module.code}"
    return reader.read(type(module))


def _kind(module: nn.Module) -> Any:
    return type(module)


def _said(module: nn.Module) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", module.extra_repr())


def _held(module: nn.Module, reader: "Reader") -> str:
    """Describe a module's attributes; of networks among them the weights count, since they are in no state."""
    weights, reader.weights = reader.weights, True
    try:
        return reader.named(_attributes(module, reader))
    finally:
        reader.weights = weights


def _attributes(module: nn.Module, reader: "Reader") -> dict[str, Any]:
    """Return what a module holds besides parameters, buffers and modules, and that is not made of these."""
    traces = functions.written(_kind(module))
    graph, found = isinstance(module, torch.fx.GraphModule), {}
    for name, value in vars(module).items():
        derived = isinstance(value, Tensor) and any(f"{name}{end}" in module._parameters for end in ("_g", "_orig"))  # noqa: SLF001
        trace = name in traces and (not reader.trained or isinstance(value, Tensor))
        packed = isinstance(value, torch.ScriptObject)  # which the module's state has
        kept = isinstance(value, Tensor) or not graph  # what else a graph holds is its code
        kept = kept and not (name.startswith("_flat_weight") and isinstance(module, nn.RNNBase))  # its parameters
        if name not in _INTERNAL and kept and not (derived or trace or packed):
            found[name] = value
    return found


def _further(module: nn.Module) -> Iterator[Any]:
    """Yield what a module's state holds besides its parameters and buffers: packed weights, say."""
    own = set(module._parameters) | set(module._buffers)  # noqa: SLF001
    state: dict[str, Any] = {}
    module._save_to_state_dict(state, "", False)  # noqa: SLF001 - of this module alone
    further = {name: value for name, value in state.items() if name not in own}
    if further:
        yield further
    for name, value in vars(module).items():
        if isinstance(value, torch.ScriptObject) and name not in further:
            yield value


def _tied(module: nn.Module) -> list[list[str]]:
    """Return the names of the parameters, and of the buffers, that are one."""
    names: dict[int, list[str]] = {}
    tensors = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for name, tensor in itertools.chain(*tensors):
        names.setdefault(id(tensor), []).append(re.sub(_PREFIXES, "", name))
    return sorted(sorted(each) for each in names.values() if len(each) > 1)


def _scripted(module: Any, reader: "Reader") -> str:
    """Describe what TorchScript compiled: its graph, the constants in it, its state and its attributes."""
    parts: list[Any] = [dict(module.state_dict()) if reader.weights else None]
    names: set[str] = set()
    for name, part in module.named_modules():
        with contextlib.suppress(RuntimeError, AttributeError):
            code, constants = part.code_with_constants
            parts.append([name, _unmangled(code), dict(constants.const_mapping)])
            graph = str(part.inlined_graph)
            names |= set(re.findall(r'prim::GetAttr\[name="(\w+)"\]', graph))
            parts.append(re.sub(r" *#.*", "", _unmangled(graph)))
    for path, part in module.named_modules():
        held = part._c  # noqa: SLF001 - where an attribute of TorchScript is
        values = {name: getattr(part, name) for name in sorted(names - {"training"}) if held.hasattr(name)}
        parts += [[path, name, value] for name, value in values.items() if not isinstance(value, nn.Module)]
    return f"scripted {reader.all(parts)}"


def _unmangled(text: str) -> str:
    return re.sub(r"\.?___torch_mangle_\d+", "", text)
