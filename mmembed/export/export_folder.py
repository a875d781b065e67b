"""How does the folder of an export grow? Graph by graph, each whole and checked before it has its name."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mmembed.export.onnx_files import (
    MANIFEST,
    ExportedGraph,
    check_files,
    graph_name,
    read_export,
    sha256,
    write_manifest,
    write_text,
)
from mmembed.export.onnx_sessions import Session
from mmembed.export.onnx_verbs import ExportError
from mmembed.export.parity_gate import Parity, ParityError, report_texts

REPORT = "parity.json"
REPORT_TEXT = "parity.txt"


class ExportFolder:
    """The folder of one export, and what is in it so far.

    Args:
        folder: Where; it need not be there.
        about: What holds for the model as a whole, `model_fingerprint` above all.
        overwrite: Take the place of an export of another model.
        write_reader: Writes into a folder what turns rows into tensors: configuration, tokenizer, processor; None where that
            is in the folder already.

    Raises:
        ExportError: If the folder holds something else, or an export of another model and not `overwrite`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        about: Mapping[str, Any],
        write_reader: Callable[[Path], None] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.about = dict(about)
        self.graphs: dict[str, ExportedGraph] = {}
        self.parities: dict[str, Parity] = {}
        self._take_over(overwrite)
        self.folder.mkdir(parents=True, exist_ok=True)
        if write_reader is not None:
            self._add_reader(write_reader)
        write_manifest(self.folder, self.about, self.graphs.values())

    def _add_reader(self, write_reader: Callable[[Path], None]) -> None:
        with self.aside() as place:
            write_reader(place)
            self.about["files"] = {
                path.relative_to(place).as_posix(): sha256(path) for path in sorted(place.rglob("*")) if path.is_file()
            }
            for name in self.about["files"]:
                (self.folder / name).parent.mkdir(exist_ok=True)
                os.replace(place / name, self.folder / name)

    def _take_over(self, overwrite: bool) -> None:
        """What an earlier run left here: used if it was of this model, refused or removed if not."""
        if not os.path.lexists(self.folder):
            return
        if not self.folder.is_dir():
            raise ExportError(f"{self.folder} is a file; name a folder.")
        if not (self.folder / MANIFEST).is_file():
            left = [path for path in self.folder.iterdir() if not path.name.startswith(".aside-")]
            if left:
                raise ExportError(
                    f"{self.folder} holds something else ({left[0].name}, …); name a new or empty folder."
                )
            return
        about, graphs = read_export(self.folder)
        if about.get("model_fingerprint") == self.about["model_fingerprint"]:
            for graph in graphs:
                try:
                    check_files(self.folder, graph.files)
                except ExportError:
                    continue  # damaged since: made again
                self.graphs[graph.name] = graph
                known = {field.name for field in fields(Parity)}
                self.parities[graph.name] = Parity(**{key: graph.parity[key] for key in graph.parity if key in known})
        elif not overwrite:
            raise ExportError(
                f"{self.folder} holds the export of another model ({about.get('model')}: its weights, modules or tokenizer "
                "differ); name another folder, or overwrite it."
            )
        else:
            for name in [MANIFEST, *(name for graph in graphs for name in graph.files), *about["files"]]:
                (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """A folder inside of this one for what is not yet sure to be kept; it goes in any case."""
        place = Path(tempfile.mkdtemp(prefix=".aside-", dir=self.folder))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def keep(
        self,
        place: Path,
        parity: Parity,
        session: Session,
        *,
        verb: str,
        precision: str,
        backend: str,
        path: str,
        quantization: Mapping[str, Any],
    ) -> ExportedGraph:
        """Give a graph that passed its name, and write the manifest.

        Args:
            place: The folder with its files.
            parity: What the gate measured.
            session: The graph, opened.
            verb: Of the graph.
            precision: Of the graph.
            backend: Of the graph.
            path: Name of the file to open.
            quantization: How it was quantised.

        Returns:
            Its entry.
        """
        name = graph_name(verb, precision, backend)
        files = {f"{name}/{one.name}": sha256(one) for one in sorted(place.iterdir())}
        entry = ExportedGraph(
            verb=verb,
            precision=precision,
            backend=backend,
            path=f"{name}/{path}",
            inputs=session.inputs,
            outputs=session.outputs,
            files=files,
            size=parity.size,
            quantization=dict(quantization),
            parity={**asdict(parity), "passed": parity.passed},
        )
        target = self.folder / name
        if target.exists():
            # Not in the manifest, or damaged.
            shutil.rmtree(target)
        os.rename(place, target)
        # A folder made aside is its maker's alone; this one is as the export's own.
        os.chmod(target, stat.S_IMODE(self.folder.stat().st_mode))
        self.graphs[name], self.parities[name] = entry, parity
        write_manifest(self.folder, self.about, self.graphs.values())
        self.write_report()
        return entry

    def refuse(self, parity: Parity) -> None:
        """Record a graph that did not pass; an earlier one of its name stays."""
        self.parities[parity.name] = parity
        self.write_report()

    def write_report(self) -> None:
        """Write what the gate measured, as JSON and as text."""
        data, text = report_texts(list(self.parities.values()))
        write_text(self.folder / REPORT, data)
        write_text(self.folder / REPORT_TEXT, text)

    def finished(self, names: list[str]) -> list[Parity]:
        """The comparisons of the graphs that were asked for.

        Raises:
            ParityError: If one of them was refused.
        """
        self.write_report()
        asked = [self.parities[name] for name in names]
        if not all(parity.passed for parity in asked):
            raise ParityError(asked, str(self.folder / REPORT_TEXT))
        return asked


def plain_reader_files(folder: Path) -> None:
    """Take code, and what points to it, out of saved tokenizer and processor files: an export runs none.

    Args:
        folder: Where they were saved.
    """
    for path in folder.rglob("*.py"):
        path.unlink()
    for path in folder.rglob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict) and "auto_map" in settings:
            del settings["auto_map"]
            path.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
