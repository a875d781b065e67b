"""An executable that stands where the Python of AutoTrain's environment stands, and does what AutoTrain is known to do."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, os, shutil, signal, subprocess, sys, time
mode = {mode!r}
if sys.argv[1] == "-c":
    if mode == "absent":
        sys.exit(1)
    print("0.8.36")
    sys.exit(0)
assert sys.argv[1:] == ["-m", "autotrain.cli.autotrain", "--config", "config.yml"], sys.argv
config = dict(line.split(": ", 1) for line in open("config.yml").read().splitlines() if ": " in line and line[0] != " ")
print("INFO     | Running task", config["task"])
open("environment.json", "w").write(json.dumps(dict(os.environ)))
target = config["project_name"]
if mode in ("trains", "hangs after", "fails late"):
    shutil.copytree("base_model", target)
if mode in ("trains", "hangs after"):
    from safetensors.torch import load_file, save_file
    path = os.path.join(target, "model.safetensors")
    save_file({{name: tensor + 0.05 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}}, path)
    os.utime(path)
if mode == "nan":
    shutil.copytree("base_model", target)
    from safetensors.torch import load_file, save_file
    path = os.path.join(target, "model.safetensors")
    save_file({{name: tensor * float("nan") for name, tensor in load_file(path).items()}}, path)
if mode == "cut off":
    shutil.copytree("base_model", target)
    path = os.path.join(target, "model.safetensors")
    data = open(path, "rb").read()
    open(path, "wb").write(data[: len(data) // 2])
if mode == "fails":
    os.makedirs(os.path.join(target, "autotrain-data"))
    print("ERROR    | autotrain.trainers.common:wrapper:215 - train has failed due to an exception: Traceback")
    print("ValueError: Invalid number of classes. Must be greater than 1.")
    print("INFO     | autotrain.parser:run:229 - Job ID: 20304")
if mode in ("hangs", "hangs after"):
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
    open("child.pid", "w").write(str(child.pid))
    sys.stdout.flush()
    time.sleep(600)
sys.exit(0)
"""


def fake_autotrain(folder: Path, mode: str) -> str:
    """Write the executable; the modes are those that its script names, and "absent"."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(_SCRIPT.format(python=sys.executable, mode=mode))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)
