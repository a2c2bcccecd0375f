"""Platform, precision and compilation cache of JAX: set once, before the first trace.

This is the only module that changes global settings of JAX.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path

import jax
import jaxlib

from pipeline.config import Config, Device

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

_compilations = 0


def _count_compilation(event: str, duration_secs: float, **details: str | int) -> None:
    del duration_secs, details
    global _compilations
    if event == COMPILE_EVENT:
        _compilations += 1


def compilations() -> int:
    """Programs compiled or loaded from the cache in this process so far."""
    return _compilations


def configure(device: Device) -> None:
    """Choose the device kind, its threads, 64-bit floats and the cache of compiled programs."""
    if device.platform != "auto":
        jax.config.update("jax_platforms", device.platform)
    elif not any(Path("/dev").glob("nvidia[0-9]*")):
        # Without a GPU the probe for one costs start-up time and prints warnings.
        jax.config.update("jax_platforms", "cpu")
    # What the CPU client takes for the number of processors when it makes its pool of threads.
    os.environ["PJRT_NPROC"] = str(device.threads)
    jax.config.update("jax_enable_x64", True)
    folder = compilation_cache(device)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    _listen_once()


@cache
def _listen_once() -> None:
    jax.monitoring.register_event_duration_secs_listener(_count_compilation)


def compilation_cache(device: Device) -> Path:
    """Folder of compiled programs; one per instruction set, since they do not travel."""
    if device.compilation_cache:
        root = Path(device.compilation_cache)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = Path(base) / "usp" / "compiled"
    return root / _instruction_set()


@cache
def _instruction_set() -> str:
    """A short name for the vector instructions of this host's processor."""
    flags = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                flags = " ".join(sorted(line.partition(":")[2].split()))
                break
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def environment_fingerprint(config: Config) -> str:
    """What the claim of equal bits holds for: jaxlib, device kind, tile, instruction set."""
    kind = jax.devices()[0].device_kind
    return (
        f"jaxlib={jaxlib.__version__} device={kind} tile={config.device.tile} "
        f"isa={_instruction_set()}"
    )
