"""Ready worker environments: the settings that `--preset NAME` stands for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import SettingsError

PYTORCH = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
TENSORFLOW = "tensorflow/tensorflow:2.20.0"
"""Images that their makers publish on Docker Hub, by the tags in use there on 2026-11-21.

PyTorch publishes none without CUDA; that one runs on the CPU as well.
"""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pytorch-gpu": {"docker": PYTORCH, "gpus": "all"},
    "pytorch-cpu": {"docker": PYTORCH, "cpu_only": True},
    "tensorflow-gpu": {"docker": f"{TENSORFLOW}-gpu", "gpus": "all"},
    "tensorflow-cpu": {"docker": TENSORFLOW, "cpu_only": True},
}


def preset(name: str, own: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Returns what a preset sets, by the names of settings, of which the agent knows `known`.

    `own` is the `[presets]` table of the operator's file: it changes single values of the ready ones, and adds
    others. Each serves the queue of its own name, which is created. Raises SettingsError.
    """
    changes = own.get(name, {})
    if name not in PRESETS and name not in own:
        there = ", ".join(sorted({*PRESETS, *own}))
        raise SettingsError(f"no preset {name!r}; there is {there}; [presets.{name}] in your settings makes one")
    if not isinstance(changes, Mapping):
        raise SettingsError(f"preset {name!r} must be a table: write [presets.{name}] above its values")
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise SettingsError(f"[presets.{name}] sets {unknown[0]!r}, which is no setting of an agent")
    return {"queue": [name], "create_queue": True, **PRESETS.get(name, {}), **changes}
