"""A property test as a target of a fuzzer that sees which code an input reaches: `scripts/fuzz` runs one a process.

python -m tests.fuzz.guided tests/fuzz/test_frames.py::test_... SECONDS
"""

import importlib.util
import sys
from pathlib import Path

import atheris

INSTRUMENTED = ["orchestrator", "runner", "packaging", "jwt", "tomllib", "json"]
_MOST_MB = 2048
_SLOWEST_S = 20  # for one input


def main(node: str, seconds: str) -> None:
    path, _, name = node.partition("::")
    with atheris.instrument_imports(include=INSTRUMENTED):
        spec = importlib.util.spec_from_file_location("target", Path(path).absolute())
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    bounds = [f"-max_total_time={seconds}", f"-rss_limit_mb={_MOST_MB}", f"-timeout={_SLOWEST_S}", "-max_len=8192"]
    atheris.Setup([sys.argv[0], *bounds, "-print_final_stats=1"], getattr(module, name).hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
