"""Executes the notebooks: jupytext percent script -> papermill -> the same notebook file every time."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jupytext
import papermill
from papermill.exceptions import PapermillException, PapermillExecutionError
from traitlets.config import Config

from replication.errors import ConfigError, DataError, UserError, nearest
from replication.files import locked, storage_errors_are_reported, write_whole

SOURCES = Path(__file__).resolve().parents[2] / "notebooks"
"""The notebooks of the repository, one jupytext percent script each."""

KERNEL = "python3"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,16}")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def execute_all(
    tier: str,
    results: Path,
    work: Path,
    names: Sequence[str],
    *,
    sources: Path = SOURCES,
    jobs: int = 1,
) -> list[Path]:
    """Execute notebooks by name into ``<results>/notebooks/<name>.ipynb``.

    Args:
        tier: name or path of the tier, given to the notebooks as a parameter.
        results: the tier's results folder. work: its work folder.
        names: stems of scripts in ``sources``.
        jobs: notebooks executed at once, each in a process of its own.

    Returns:
        The executed notebooks, in the order of ``names``.

    Raises:
        ConfigError: a name has no script (checked before anything runs).
        DataError: a cell failed; names the notebook and the cell.
    """
    scripts = [_script(sources, name) for name in names]
    parameters = {"tier": tier, "results": str(results), "work": str(work)}
    targets = [results / "notebooks" / f"{name}.ipynb" for name in names]
    if jobs <= 1 or len(scripts) <= 1:
        return [execute(script, out, parameters) for script, out in zip(scripts, targets, strict=True)]
    with ProcessPoolExecutor(min(jobs, len(scripts)), mp_context=get_context("spawn")) as pool:
        done = [pool.submit(execute, s, out, parameters) for s, out in zip(scripts, targets, strict=True)]
        return [future.result() for future in done]


def execute(script: Path, out: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute one percent script with the running interpreter and write the normalised notebook.

    The kernel's working folder is the caller's, so relative paths in ``parameters`` mean the same in both.

    Args:
        script: a jupytext percent script with a ``kernelspec`` in its header.
        out: the ``.ipynb`` to write. parameters: replace those of the cell tagged ``parameters``.

    Raises:
        ConfigError: the script is missing, or lacks the kernelspec or the parameters cell.
        DataError: a cell failed, or another process executes it; ``out`` is left as it was.
    """
    notebook = _read(script, parameters)
    with (
        locked(out, "executing this notebook"),
        tempfile.TemporaryDirectory() as scratch,
        storage_errors_are_reported(Path(scratch)),
        _interpreter_kernel(Path(scratch)),
    ):
        try:
            executed = papermill.execute_notebook(
                notebook,
                None,
                parameters=dict(parameters),
                kernel_name=KERNEL,
                cwd=str(Path.cwd()),
                progress_bar=False,
                log_output=False,
                config=_own_sockets(Path(scratch)),
            )
        except PapermillExecutionError as error:
            raise _cell_error(script, error) from error
        except PapermillException as error:
            raise DataError("A notebook could not be executed.", where=script, found=error) from error
        result = normalise(executed, _short_paths(parameters))
        return write_whole(out, json.dumps(result, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def normalise(notebook: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """Drop what differs between two equal executions: times, durations, ids, addresses, absolute paths.

    Args:
        notebook: version 4, as nbformat has it or as parsed from its file.
        paths: text -> what stands for it; the longest come first.
    """
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        clean = {
            "cell_type": cell["cell_type"],
            "id": f"cell-{number:03d}",
            "metadata": {key: value for key, value in cell["metadata"].items() if key == "tags" and value},
            "source": _lines(_replace(_text(cell["source"]), paths)),
        }
        if cell["cell_type"] == "code":
            clean["execution_count"] = cell["execution_count"]
            clean["outputs"] = [_clean_output(output, paths) for output in _merge_streams(cell["outputs"])]
        cells.append(clean)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _short_paths(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Absolute folders of this machine -> how they are shown."""
    given = [Path(str(value)) for value in parameters.values()]
    shown = {str(path): "/".join(path.parts[-2:]) for path in given if path.is_absolute()}
    shown |= {f"{Path.cwd()}{os.sep}": "", str(Path.cwd()): "."}
    if Path.home() != Path(Path.home().anchor):
        shown[f"{Path.home()}{os.sep}"] = "~/"
    return dict(sorted(shown.items(), key=lambda item: -len(item[0])))


def _script(sources: Path, name: str) -> Path:
    path = sources / f"{name}.py"
    if not path.is_file():
        known = [p.stem for p in sources.glob("*.py")]
        raise ConfigError("No such notebook.", where=sources, found=name, remedy=nearest(name, known))
    return path


def _read(script: Path, parameters: Mapping[str, Any]) -> Any:
    if not script.is_file():
        raise ConfigError("No such notebook.", where=script)
    notebook = jupytext.read(script, fmt="py:percent")
    if notebook.metadata.get("kernelspec", {}).get("name") != KERNEL:
        raise ConfigError(
            "A notebook names its kernel.",
            where=script,
            found=notebook.metadata.get("kernelspec"),
            allowed=f"a jupytext header with kernelspec name {KERNEL}",
        )
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if parameters and len(tagged) != 1:
        raise ConfigError(
            "A notebook has exactly one cell tagged 'parameters'.", where=script, found=len(tagged)
        )
    return notebook


def _own_sockets(folder: Path) -> Config:
    """Let a kernel talk through files: of kernels that start at once, two may choose the same free port."""
    name = str(folder / "kernel")
    # Longer names than 107 bytes cannot be those of sockets.
    transport = "ipc" if len(os.fsencode(name)) < 100 else "tcp"
    own = {"transport": transport, "connection_file": f"{name}.json"}
    return Config({"KernelManager": own | ({"ip": name} if transport == "ipc" else {})})


@contextmanager
def _interpreter_kernel(folder: Path) -> Iterator[None]:
    """Make ``python3`` mean the running interpreter, whatever kernels are installed on the machine."""
    spec = folder / "kernels" / KERNEL
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50"]
    kernel = {"argv": command, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
    wanted = {
        # A missing progress widget is no finding, and the message names a path of this machine.
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "JUPYTER_PATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("JUPYTER_PATH")])]),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # Sums of several threads differ in the last digit from those of one.
        "OMP_NUM_THREADS": "1",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _cell_error(script: Path, error: PapermillExecutionError) -> UserError:
    lines = [line for line in str(error.source).strip().splitlines() if line.strip()]
    return DataError(
        f"The notebook {script.stem!r} failed in cell {error.exec_count or error.cell_index}.",
        where=f"{script}, cell that begins with: {lines[0].strip() if lines else ''}",
        found=_ANSI.sub("", f"{error.ename}: {error.evalue}"),
        remedy="mend the cause, then run `replicate report` again; nothing was written",
    )


def _merge_streams(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of stdout, then all of stderr, then the rest: how the two interleave is a matter of chance."""
    texts: dict[str, str] = {}
    others = []
    for output in outputs:
        if output["output_type"] == "stream":
            texts[output["name"]] = texts.get(output["name"], "") + _text(output["text"])
        else:
            others.append(output)
    streams = [
        {"output_type": "stream", "name": name, "text": texts[name]}
        for name in ("stdout", "stderr")
        if name in texts
    ]
    return [*streams, *others]


def _clean_output(output: dict[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    clean = dict(output)
    if "text" in clean:
        clean["text"] = _lines(_ADDRESS.sub("0x0", _replace(_text(clean["text"]), paths)))
    if "data" in clean:
        clean["data"] = {
            kind: _lines(_ADDRESS.sub("0x0", _replace(_text(content), paths)))
            if kind.startswith("text/")
            else content
            for kind, content in clean["data"].items()
        }
        clean["metadata"] = {}
    return clean


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _replace(text: str, paths: Mapping[str, str]) -> str:
    for path, short in paths.items():
        text = text.replace(path, short)
    return text
