"""No import has an effect: importing the steps and pipelines opens nothing, and loads nothing that was not chosen."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WATCH = """
import json, sys
import zenml, zenml.steps, zenml.pipelines  # what is measured is what we add
effects = []
EVENTS = ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.mkdir", "urllib.Request")
def watch(event, arguments):
    if event == "open":
        path, mode = str(arguments[0]), arguments[1] or "r"
        code = path.endswith((".py", ".pyc", ".so", ".pth", ".toml", ".json")) or "/lib/python" in path
        writes = any(letter in mode for letter in "wax+") and "__pycache__" not in path
        if writes or not code and path.startswith(ROOT):
            effects.append(f"open {path} {mode}")
    elif event.startswith(EVENTS):
        effects.append(f"{event} {arguments!r}"[:200])
ROOT = sys.argv[1] + "/data"
before = set(sys.modules)
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import steps, pipelines, llm_engineering.settings
from llm_engineering.bootstrap import llm_service, logging, resources, service, training
print(json.dumps({"effects": effects, "modules": sorted(set(sys.modules) - before)}))
"""

HEAVY = {
    "boto3",
    "datasets",
    "feedparser",
    "onnxruntime",
    "opik",
    "pyarrow",
    "pymongo",
    "qdrant_client",
    "qdrant_edge",
    "scipy",
    "selenium",
    "tokenizers",
    "torch",
    "trafilatura",
    "transformers",
    "xllamacpp",
}


def test_importing_steps_and_pipelines_touches_nothing_and_loads_no_adapter() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WATCH, str(ROOT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = json.loads(result.stdout.strip().splitlines()[-1])
    assert seen["effects"] == []
    assert HEAVY & {name.split(".")[0] for name in seen["modules"]} == set()
    assert not [name for name in seen["modules"] if name.startswith("llm_engineering.infrastructure.")]
