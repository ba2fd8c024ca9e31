"""What decides what a factory builds: its own code, from its own folder, and no other's."""

import sys
from pathlib import Path

import pytest
import torch

from limbeck.config.networks import read_model
from limbeck.errors import ModelError
from limbeck.identity import code_identity
from walk import over

NET = "from torch import nn\ndef net(classes=2):\n    return nn.Sequential(nn.Linear(3, classes), {})\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def spec(folder: Path, factory: str = "net:net"):
    return read_model({"factory": factory}, "student.model", folder)


def built(folder: Path, factory: str = "net:net") -> str:
    return str(spec(folder, factory).build((3,), 2))


IMPORTS = {
    "import helper": "helper.A()",
    "from helper import A": "A()",
    "from helper import *": "A()",
    "import pack.inner": "pack.inner.A()",
    "from pack import inner": "inner.A()",
    "from pack.inner import A": "A()",
    "import pack.inner as p": "p.A()",
    "import pack": "pack.relative.A()",
    "import importlib; helper = importlib.import_module('helper')": "helper.A()",
    "import importlib; helper = importlib.import_module('pack.inner')": "helper.A()",
    "import importlib; helper = importlib.import_module('help' + 'er')": "helper.A()",
    "helper = __import__('helper')": "helper.A()",
}


def helpers(act: str) -> dict[str, str]:
    source = f"from torch import nn\nA = nn.{act}\n"
    return {
        "helper.py": "from deeper import A\n",
        "deeper.py": source,
        "pack/__init__.py": "from . import relative\n",
        "pack/relative.py": "from .inner import A\n",
        "pack/inner.py": source,
    }


@pytest.mark.miniature(1)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("line", IMPORTS)
def test_what_a_factory_imports_is_its_folders_own_and_decides_its_identity(tmp_path, line, lazy):
    """Two projects with the same module names, in turns; then an edit of the same length, in the same second."""
    if lazy:
        body = f"from torch import nn\ndef net():\n    {line}\n"
        body += f"    return nn.Sequential({IMPORTS[line]}, nn.Linear(3, 2))\n"
    else:
        body = f"{line}\n{NET.format(IMPORTS[line])}"
    if lazy and "*" in line:
        return
    a = write(tmp_path / "a", {"net.py": body, **helpers("ReLU")})
    b = write(tmp_path / "b", {"net.py": body, **helpers("Tanh")})
    path, modules = list(sys.path), {name for name in sys.modules if name in ("net", "helper", "pack", "deeper")}
    assert ("ReLU" in built(a), "Tanh" in built(b), "ReLU" in built(a)) == (True, True, True)
    assert (sys.path, {n for n in sys.modules if n in ("net", "helper", "pack", "deeper")}) == (path, modules)
    before = code_identity("net:net", a)
    assert before != code_identity("net:net", b)
    write(a, helpers("GELU"))
    assert "GELU" in built(a)
    assert code_identity("net:net", a) != before
    write(a, helpers("ReLU"))
    assert code_identity("net:net", a) == before


def test_the_identity_is_of_files_and_not_of_their_place_or_of_what_is_not_imported(tmp_path):
    files = {"net.py": "import helper\n" + NET.format("helper.A()"), **helpers("ReLU")}
    a, b = write(tmp_path / "a", files), write(tmp_path / "b", {**files, "other.py": "import nothing"})
    assert code_identity("net:net", a) == code_identity("net:net", b)
    assert sorted(code_identity("net:net", a)) == ["deeper", "helper", "net"]


def test_a_module_elsewhere_on_the_path_counts_and_an_installed_one_does_not(tmp_path, monkeypatch):
    shared = write(tmp_path / "shared", {"act_of_ours.py": "from torch import nn\nA = nn.ReLU\n"})
    monkeypatch.syspath_prepend(str(shared))
    folder = write(tmp_path / "a", {"net.py": "import numpy, yaml, act_of_ours\n" + NET.format("act_of_ours.A()")})
    assert sorted(code_identity("net:net", folder)) == ["act_of_ours", "net"]
    assert list(code_identity("torch.nn.modules.linear:Linear", folder)) == ["torch.nn.modules.linear"]


@pytest.mark.thorough
@over("name", ["torch", "yaml", "random", "numpy", "limbeck", "pydantic", "json"])
def test_the_folder_takes_no_librarys_place(tmp_path, name):
    folder = write(tmp_path, {"net.py": f"import {name}\n" + NET.format("nn.ReLU()"), f"{name}.py": "1 / 0"})
    assert "ReLU" in built(folder)
    with pytest.raises(ModelError, match=f"'{name}'.*an installed package.*rename"):
        built(folder, f"{name}:net")


def test_a_folder_of_data_hides_no_module(tmp_path, monkeypatch):
    shared = write(tmp_path / "shared", {"net.py": NET.format("nn.Tanh()")})
    monkeypatch.syspath_prepend(str(shared))
    (tmp_path / "a" / "net").mkdir(parents=True)
    assert "Tanh" in built(tmp_path / "a")
    sys.modules.pop("net", None)


@pytest.mark.thorough
@over(
    "body",
    [
        "NET = nn.Linear(3, 2)\ndef net():\n    return NET\n",
        "import functools\n@functools.cache\ndef net():\n    return nn.Linear(3, 2)\n",
        "TRUNK = nn.Linear(3, 3)\ndef net():\n    return nn.Sequential(TRUNK, nn.Linear(3, 2))\n",
        "W = nn.Parameter(torch.ones(2, 3))\ndef net():\n    l = nn.Linear(3, 2); l.weight = W; return l\n",
        "NORM = nn.BatchNorm1d(3, affine=False)\ndef net():\n    return nn.Sequential(NORM, nn.Linear(3, 2))\n",
    ],
)
def test_a_factory_that_remembers_is_refused(tmp_path, body):
    own = spec(write(tmp_path, {"net.py": "import torch\nfrom torch import nn\n" + body}))
    first = own.build((3,), 2)
    with pytest.raises(ModelError, match=r"student\.model\.factory.*returned before"):
        own.build((3,), 2)
    assert first is not None


@pytest.mark.thorough
def test_a_factory_that_builds_anew_may_share_what_has_no_weights(tmp_path):
    folder = write(tmp_path, {"net.py": "from torch import nn\nA = nn.ReLU()\n" + NET.format("A").partition("\n")[2]})
    one, two = spec(folder).build((3,), 2), spec(folder).build((3,), 2)
    assert one[1] is two[1]
    assert not torch.equal(one[0].weight, two[0].weight)
    for _ in range(20):  # ids of networks that are gone come again
        spec(folder).build((3,), 2)


def test_what_goes_wrong_is_told_without_the_name_that_a_module_bears_inside(tmp_path):
    folder = write(tmp_path, {"net.py": "import helper.missing\n", "helper.py": ""})
    with pytest.raises(ModelError, match=r"cannot import 'net' \(No module named 'helper\.missing'"):
        built(folder)
    with pytest.raises(ModelError, match="cannot import 'nothing'"):
        built(folder, "nothing:net")
