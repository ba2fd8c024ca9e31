"""Functions of the user's own that a recipe names: imported from the recipe's folder, and known by their code."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, ModelError, no_exit, one_of
from limbeck.identity.modules import importing
from limbeck.identity.sources import code_identity

__all__ = ["Factory"]


@dataclass(frozen=True)
class Factory:
    """A function that a recipe names as `package.module:function`.

    where: the place in the recipe that names it, such as "student.model".  folder: where its module is looked for
    first.  error: what is raised where it cannot be imported.
    """

    where: str
    name: str
    folder: Path
    error: type[LimbeckError] = ModelError

    @property
    def key(self) -> str:
        """The key of the recipe that names it."""
        return f"{self.where}.factory" if self.where else "factory"

    def code(self) -> dict[str, str]:
        """Return the SHA-256 of each file of its code, by the file's module (`code_identity`)."""
        return code_identity(self.name, self.folder.resolve())

    def home(self) -> Path | None:
        """Import it and return the file that defines the function which it names; None where that is none."""
        with self.imported() as function:
            module = sys.modules.get(str(getattr(function, "__module__", "")))
        file = getattr(module, "__file__", None)
        return None if file is None else Path(file)

    @contextmanager
    def imported(self) -> Iterator[Callable[..., Any]]:
        """Import the function; what its module imports inside the scope is found as well.

        Raises `error` with one line where the module or the function is not found, or importing it fails.
        """
        where = self.key
        module_name, _, name = self.name.partition(":")
        with ExitStack() as scope:
            try:
                with no_exit(f"{where}: importing '{module_name}'"):
                    module = scope.enter_context(importing(module_name, self.folder))
            except ImportError as error:
                raise self.error(
                    f"{where}: cannot import '{module_name}' ({error}); check the name or install it"
                ) from None
            except LimbeckError:
                raise
            except Exception as error:
                raise self.error(
                    f"{where}: importing '{module_name}' raised {type(error).__name__}: {_first_line(error)}; fix it"
                ) from error
            found: Any = module
            for part in name.split("."):
                if not hasattr(found, part):
                    public = [each for each in dir(found) if not each.startswith("_")]
                    raise self.error(f"{where}: '{module_name}' has no '{part}'; {one_of(part, public)}")
                found = getattr(found, part)
            if not callable(found):
                raise self.error(f"{where}: '{self.name}' is {type(found).__name__}, expected a function")
            yield found

    def failed(self, error: Exception) -> LimbeckError:
        """Return what is said of an exception that the function raised."""
        return self.error(
            f"{self.key}: '{self.name}' raised {type(error).__name__}: {_first_line(error)}; fix it or its arguments"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
