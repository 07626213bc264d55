"""Putting somebody's own kernel under the microscope: ``path/to/file.py:kernel``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_numba.microscope.views import Examination, View, observe
from llm_numba.runtime import Launch, intercept, kernel_view, launch
from llm_numba.simulator.loading import KernelFileError, as_declared, describe, load_file

_RETURN = "(grid, block, args) or (grid, block, args, shared_bytes), with args a tuple"


def is_file(target: str) -> bool:
    """Tell whether a name means a file's kernel rather than a ladder.

    Parameters
    ----------
    target : str
        ``"transpose"`` or ``"path/to/file.py:kernel"``.
    """
    return ".py" in target or "/" in target


def examine_file(
    target: str, builder: str | None = None, *, schedule: str = "ordered", seed: int = 0
) -> Examination:
    """Run a kernel of any file in the simulator.

    Parameters
    ----------
    target : str
        ``"path/to/file.py:kernel"``.
    builder : str, optional
        ``"path/to/file.py:function"``, which takes nothing and returns (grid, block, args) or
        (grid, block, args, shared_bytes); args are NumPy arrays and scalars. By default the
        kernel's own file is asked for ``<kernel>_example`` and then for ``example``.
    schedule : {"ordered", "random"}
        As of :func:`~llm_numba.microscope.examine`.
    seed : int
        Of the random schedule.

    Returns
    -------
    Examination
        Of one view, without a reference to compare with.

    Raises
    ------
    LLMNumbaError
        If a file, the kernel or its arguments are not to be had.
    SimulationError
        If the simulator finds a fault.
    """
    path, name = _split(target, "kernel")
    module = load_file(path)
    kernel = _kernel(path, module, name)
    if builder is None:
        place, build = _default_builder(path, module, name)
    else:
        place, build = _named_builder(builder, path, module)
    grid, block, args, shared_bytes = _built(place, build)
    launches: list[Launch] = []
    with intercept(launches.append):  # which checks grid, block and the number of arguments
        launch(kernel, grid, block, args, shared_bytes)
    views = [kernel_view(value) if isinstance(value, np.ndarray) else value for value in args]
    fitting = as_declared(kernel, tuple(views))
    launches = [each._replace(args=fitting) for each in launches]
    reports = tuple(observe(each, schedule, seed) for each in launches)
    return Examination(target, (View(name, "", tuple(launches), reports),))


def _split(target: str, what: str) -> tuple[Path, str]:
    path, separator, name = target.rpartition(":")
    if not separator:
        raise KernelFileError(
            f"{target!r} names no {what}.", f"Write path/to/file.py:{what}, with its name."
        )
    return Path(path).expanduser(), name


def _kernel(path: Path, module: Any, name: str) -> Any:
    kernels = [key for key, value in vars(module).items() if _is_kernel(value)]
    value = getattr(module, name, None)
    if name in kernels:
        return value
    if hasattr(value, "targetoptions"):
        what = f"{name!r} in {path} is a device function"
    elif hasattr(module, name):
        what = f"{name!r} in {path} is of type {type(value).__name__}, and no kernel"
    else:
        what = f"There is no {name!r} in {path}"
    offer = f"Choose one of {', '.join(kernels)}." if kernels else "Decorate one with @cuda.jit."
    raise KernelFileError(f"{what}.", offer)


def _is_kernel(value: Any) -> bool:
    options = getattr(value, "targetoptions", None)
    return options is not None and hasattr(value, "py_func") and not options.get("device")


def _default_builder(path: Path, module: Any, kernel: str) -> tuple[str, Callable[[], Any]]:
    for name in (f"{kernel}_example", "example"):
        if callable(build := getattr(module, name, None)):
            return f"{path}:{name}", build
    raise KernelFileError(
        f"{path} has no function {kernel}_example or example, so {kernel!r} has no arguments.",
        f"Write one that returns {_RETURN}, or name it: --args path/to/file.py:function.",
    )


def _named_builder(target: str, path: Path, module: Any) -> tuple[str, Callable[[], Any]]:
    other, name = _split(target, "function")
    holder = module if other.resolve() == path.resolve() else load_file(other)
    build = getattr(holder, name, None)
    if not callable(build):
        raise KernelFileError(f"There is no function {name!r} in {other}.", f"Write {target}().")
    return target, build


def _built(place: str, build: Callable[[], Any]) -> tuple[Any, Any, tuple[Any, ...], int]:
    try:
        built = build()
    except (Exception, SystemExit) as failure:
        raise KernelFileError(
            f"{place}() fails: {describe(failure)}",
            f"Mend it; it takes nothing and returns {_RETURN}, without the help of a GPU.",
        ) from failure
    if isinstance(built, tuple) and len(built) in (3, 4) and isinstance(built[2], tuple | list):
        grid, block, args, *rest = built
        return grid, block, tuple(args), rest[0] if rest else 0
    shown = type(built).__name__
    if isinstance(built, tuple):
        shown = f"({', '.join(type(each).__name__ for each in built)})"
    raise KernelFileError(f"{place}() returns {shown}.", f"It must return {_RETURN}.")
