"""Execution of notebooks: equal bytes, clear errors, the interpreter at hand."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import pytest

from replication.errors import ConfigError, DataError
from replication.reporting.notebooks import SOURCES, execute, execute_all, normalise

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""
PARAMETERS = '# %% tags=["parameters"]\ntier = "none"\nresults = "none"\nwork = "none"\n\n'
TINY = (
    HEADER
    + PARAMETERS
    + """# %%
import os, sys
print(tier, results, sys.executable, os.getcwd())
print(object(), file=sys.stderr)
object()
"""
)


def script(folder: Path, text: str, name: str = "tiny") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def test_two_executions_are_equal_files(tmp_path: Path) -> None:
    script(tmp_path, TINY)
    before = dict(os.environ)
    made = [
        execute_all("smoke", tmp_path / "results", tmp_path / "work", ["tiny"], sources=tmp_path)[
            0
        ].read_bytes()
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert dict(os.environ) == before
    text = made[0].decode()
    notebook = json.loads(text)
    printed = "".join(notebook["cells"][-1]["outputs"][0]["text"])
    assert printed.startswith("smoke ")
    assert Path(sys.executable).name in printed
    for private in (str(tmp_path), str(Path.cwd()), "papermill", "execution_time", "start_time"):
        assert private not in text
    assert [cell["id"] for cell in notebook["cells"]] == [f"cell-{i:03d}" for i in range(3)]


@pytest.mark.parametrize(("folder", "transport"), [("short", "ipc"), ("long" * 30, "tcp")])
def test_kernels_take_no_ports_where_they_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, transport: str
) -> None:
    """Kernels that started at once chose the same free port now and then."""
    with tempfile.TemporaryDirectory() as short:
        scratch = Path(short) / folder
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        asks = "# %%\nfrom ipykernel.kernelapp import IPKernelApp\nprint(IPKernelApp.instance().transport)\n"
        out = execute(script(tmp_path, HEADER + PARAMETERS + asks), tmp_path / "out.ipynb", {"tier": "smoke"})
        assert json.loads(out.read_text())["cells"][-1]["outputs"][0]["text"] == [f"{transport}\n"]
        assert not list(scratch.iterdir())


def test_a_failing_cell_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    bad = script(tmp_path, HEADER + PARAMETERS + "# %%\n1 + 1\n\n# %%\nvalue = {}['missing key']\n")
    out = tmp_path / "out" / "tiny.ipynb"
    with pytest.raises(DataError, match="tiny") as caught:
        execute(bad, out, {"tier": "smoke"})
    assert "cell 4" in caught.value.problem
    assert "value = {}['missing key']" in str(caught.value.where)
    assert caught.value.found == "KeyError: 'missing key'"
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [(PARAMETERS, "kernel"), (HEADER + "# %%\n1\n", "parameters"), (HEADER + PARAMETERS * 2, "parameters")],
)
def test_a_notebook_that_cannot_be_parameterised_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        execute(script(tmp_path, text), tmp_path / "out.ipynb", {"tier": "smoke"})


def test_an_unknown_notebook_is_refused_before_any_runs(tmp_path: Path) -> None:
    script(tmp_path, TINY)
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        execute_all("smoke", tmp_path / "results", tmp_path, ["tiny", "tinny"], sources=tmp_path)
    assert not (tmp_path / "results").exists()


def test_normalising_merges_streams_and_hides_addresses() -> None:
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": "x"},
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]},
        {"output_type": "stream", "name": "stderr", "text": "y at 0x7f00aabbccdd in /srv/me/p/file"},
        {"output_type": "display_data", "data": {"image/png": "0xdeadbeef"}, "metadata": {"w": 1}},
    ]
    cell = {
        "cell_type": "code",
        "id": "random",
        "metadata": {"papermill": {"duration": 1}, "tags": []},
        "source": "1",
        "execution_count": 1,
        "outputs": outputs,
    }
    made = normalise({"cells": [cell]}, {"/srv/me/p/": ""})["cells"][0]
    assert made["metadata"] == {}
    assert [output.get("name") for output in made["outputs"]] == ["stdout", "stderr", None]
    assert made["outputs"][1]["text"] == ["xy at 0x0 in file"]
    assert made["outputs"][2]["data"]["image/png"] == "0xdeadbeef"


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.py")), ids=lambda path: path.stem)
def test_the_projects_notebooks_can_be_executed_and_explain_themselves(path: Path) -> None:
    notebook = jupytext.read(path, fmt="py:percent")
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    assert {"tier", "results", "work"} <= {line.split(" = ")[0] for line in parameters[0].source.splitlines()}
    assert notebook.cells[0].cell_type == "markdown"
    assert "How to read it" in notebook.cells[0].source or "What it is for" in notebook.cells[0].source
