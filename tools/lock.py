"""Turn pip's report of a resolution into ``requirements.lock``; see ``make lock``."""

import json
import sys
from pathlib import Path

HEADER = """\
# Exact versions of everything `make lab` and `make test` install, for Python 3.11 to 3.13.
# Regenerate with `make lock`, on the oldest of these; pyproject.toml owns the dependency list.
# There are no hashes, so that any build of these versions will do: torch's CPU build, for one.
"""

# torch pins its own CUDA packages for the platform it is installed on; they have no place in a
# lock for every platform. pip's version is the environment's own affair.
LEFT_OUT = ("cuda-", "nvidia-", "triton", "pip", "dp-sgd-workbench")


def pins(report: dict) -> list[str]:
    """``name==version`` of every package in the report, sorted, without local version labels."""
    packages = (item["metadata"] for item in report["install"])
    chosen = {
        package["name"].lower().replace("_", "-"): package["version"].partition("+")[0]
        for package in packages
        if not is_left_out(package["name"].lower())
    }
    return [f"{name}=={version}" for name, version in sorted(chosen.items())]


def is_left_out(name: str) -> bool:
    """Whether the lock must not pin ``name``."""
    return any(name == entry or (entry[-1] == "-" and name.startswith(entry)) for entry in LEFT_OUT)


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lines = "\n".join(pins(report))
    Path("requirements.lock").write_text(f"{HEADER}\n{lines}\n", encoding="utf-8")
