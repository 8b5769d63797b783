"""``umekit doctor``: versions, attention kernels, devices, and pairs of versions known to break."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from typing import Any

from ..modeling.versions import number, peft_problem, transformers_problem
from .common import print_json, print_table

CORE = ("umekit", "torch", "transformers", "pillow", "numpy", "safetensors", "huggingface-hub", "jinja2")
OPTIONAL = {
    "av": "video (umekit[media])",
    "pypdfium2": "PDF (umekit[media])",
    "faiss-cpu": "index and search (umekit[search])",
    "sentence-transformers": "that interface (umekit[st])",
    "peft": "adapters, training (umekit[train])",
    "accelerate": "training (umekit[train])",
    "datasets": "training (umekit[train])",
    "bitsandbytes": "4-bit training (umekit[train])",
    "trl": "umekit[trl]",
    "flash-attn": "faster attention on CUDA (umekit[cuda])",
    "scikit-learn": "demo (umekit[demo])",
    "torchvision": "not needed",
    "torchcodec": "not needed",
}
MODULES = {"av": "av", "pypdfium2": "pypdfium2", "faiss-cpu": "faiss", "flash-attn": "flash_attn"}
Versions = Mapping[str, str]


def _build(version: str) -> str:
    return version.split("+")[1] if "+" in version else ""


def _torchvision_build(v: Versions) -> bool:
    pair = ("torch" in v, "torchvision" in v)
    return (
        all(pair)
        and "cpu" in (_build(v["torch"]), _build(v["torchvision"]))
        and (_build(v["torch"]) != _build(v["torchvision"]))
    )


# Asked for at use, too. Each says what is wrong and what to do, or None; all are fatal.
PAIRS: tuple[Callable[[Versions], str | None], ...] = (transformers_problem, peft_problem)

# (does it apply, is it fatal, what happens and what to do)
KNOWN_BAD: tuple[tuple[Callable[[Versions], bool], bool, str], ...] = (
    (
        lambda v: "torch" in v and number(v["torch"]) < (2, 5),
        True,
        "torch must be >=2.5",
    ),
    (
        _torchvision_build,
        True,
        "torchvision and torch are of different builds (cpu, cuda): importing it fails with 'operator "
        "torchvision::nms does not exist' and takes transformers with it; umekit needs none of it: "
        "pip uninstall torchvision",
    ),
    (
        lambda v: "decord" in v,
        False,
        "decord is unmaintained and hangs on some files; umekit decodes with av and does not use it",
    ),
    (
        lambda v: "torchcodec" in v and "+cpu" in v.get("torch", ""),
        False,
        "torchcodec may be installed and still fail to load with a CPU torch; umekit decodes with av",
    ),
    (
        lambda v: "faiss-cpu" in v and "faiss-gpu" in v,
        True,
        "faiss-cpu and faiss-gpu overwrite each other's files: uninstall one of them",
    ),
    (
        lambda v: "pymupdf" in v,
        False,
        "pymupdf is AGPL; umekit renders PDF pages with pypdfium2 and does not use it",
    ),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="show versions, kernels, devices and known-bad pairs",
        description="Look at the environment. Exit code 1: something in it is known to break.",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def installed() -> dict[str, str]:
    """Version of each installed distribution, by normalised name."""
    return {
        name.lower().replace("_", "-"): distribution.version
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"])
    }


def findings(versions: Versions, imports: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """What is broken and what deserves a warning.

    Args:
        versions: of installed distributions.
        imports: distribution -> error text of its import, None where it worked.
    """
    broken = [f"{name} is missing" for name in CORE if name not in versions and name != "umekit"]
    broken += [
        f"{name} is installed but can't be imported: {error}" for name, error in imports.items() if error
    ]
    broken += [text for pair in PAIRS if (text := pair(versions))]
    broken += [text for applies, fatal, text in KNOWN_BAD if fatal and applies(versions)]
    warned = [text for applies, fatal, text in KNOWN_BAD if not fatal and applies(versions)]
    return broken, warned


def run(args: argparse.Namespace) -> int:
    from .._version import __version__

    versions = installed()
    versions["umekit"] = __version__
    imports = {name: _import_error(module) for name, module in MODULES.items() if name in versions}
    torch_error = _import_error("torch")
    imports["torch"] = torch_error
    broken, warned = findings(versions, imports)
    devices, kernels = ([], []) if torch_error else _torch_facts(versions, imports)
    if args.json:
        named = {name: versions.get(name) for name in (*CORE, *OPTIONAL)}
        machine = {"python": platform.python_version(), "platform": platform.platform()}
        found = {"devices": devices, "kernels": kernels, "broken": broken, "warnings": warned}
        print_json({**machine, "versions": named, **found})
        return 1 if broken else 0
    print(f"python {platform.python_version()} on {platform.platform()} ({sys.executable})\n")
    rows = [(name, versions.get(name, "missing"), "needed") for name in CORE]
    rows += [(name, versions.get(name, "-"), use) for name, use in OPTIONAL.items()]
    print_table(("package", "version", "for"), rows)
    print("\nattention kernels: " + ", ".join(kernels))
    print("devices: " + "; ".join(devices))
    for text in warned:
        print(f"warning: {text}")
    for text in broken:
        print(f"broken: {text}")
    print("\n" + (f"{len(broken)} problem(s)" if broken else "nothing known to be broken"))
    return 1 if broken else 0


def _import_error(module: str) -> str | None:
    try:
        import_module(module)
    except Exception as error:  # a broken wheel raises anything: OSError, RuntimeError, AttributeError
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _torch_facts(versions: Versions, imports: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for device in range(torch.cuda.device_count()):
        facts: Any = torch.cuda.get_device_properties(device)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        devices.append(f"cuda:{device} {facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bfloat16}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    kernels = ["eager", "sdpa"]
    if "flash-attn" in versions and imports.get("flash-attn") is None and torch.cuda.is_available():
        kernels.append("flash_attention_2")
    return devices, kernels
