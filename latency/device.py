"""What was measured on what: the fingerprint of a device."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime

from .rounds import CPU_PROVIDER, FLUSH_BYTES

PROTOCOL = 8  # of measuring: numbers of another are never mixed with these
# What /proc/cpuinfo says of each core that tells processors of one name apart; on x86, then on ARM.
KINDS = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision")

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
NVIDIA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Device:
    """Everything that a latency depends on besides the network. Numbers of different fingerprints are never mixed.

    Nothing of it changes by itself when the machine starts again.

    Attributes:
        cpu: its name, and what kinds of core it has.
        cores: that this process may run on.
        system: with the distribution or release, but not the kernel's version, which updates change.
        flush_bytes: of the buffer that is written between runs.
        accelerator: what the provider computes on, where that is not the processor: "unknown" where nothing tells.
    """

    cpu: str
    cores: int
    threads: int
    provider: str
    onnxruntime: str
    system: str
    flush_bytes: int = FLUSH_BYTES
    accelerator: str = ""

    @classmethod
    def here(cls, *, threads: int = 1, provider: str = CPU_PROVIDER) -> Device:
        """This machine, with ONNX Runtime's provider of this name."""
        return cls(
            cpu=_cpu_model(),
            cores=len(allowed_cores()),
            threads=threads,
            provider=provider,
            onnxruntime=onnxruntime.__version__,
            system=" ".join([platform.system(), platform.machine(), _release()]).strip(),
            accelerator=_accelerator(provider),
        )

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits, equal for equal devices."""
        return hashlib.sha256(json.dumps({**asdict(self), "protocol": PROTOCOL}, sort_keys=True).encode()).hexdigest()[
            :12
        ]

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        of = "" if self.provider == CPU_PROVIDER else f", {self.provider} on {self.accelerator}"
        return f"{self.cpu} ({self.cores} cores, {threads}{of}), ONNX Runtime {self.onnxruntime}, {self.system}"


def allowed_cores() -> Set[int]:
    """Numbers of the cores that this process may run on, where the system tells; else of all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpu_model() -> str:
    try:
        return cpu_of(Path("/proc/cpuinfo").read_text(), allowed_cores())
    except OSError:  # not Linux
        return platform.processor() or platform.machine() or "unknown CPU"


def cpu_of(cpuinfo: str, cores: Set[int]) -> str:
    """The processor's or the board's name, and the kinds of those cores, as Linux tells them."""
    told = [
        {key.strip(): " ".join(value.split()) for key, _, value in (line.partition(":") for line in part.splitlines())}
        for part in cpuinfo.split("\n\n")
    ]
    ours = [each for each in told if each.get("processor", "").isdecimal() and int(each["processor"]) in cores]
    names = [each[key] for key in ("model name", "Model") for each in (*ours, *told) if each.get(key)]
    kinds = {" ".join(each[key] for key in KINDS if key in each) for each in ours} - {""}
    return ", ".join([*names[:1], " + ".join(sorted(kinds))]).strip(", ") or platform.machine() or "unknown CPU"


def _accelerator(provider: str) -> str:
    if provider == CPU_PROVIDER:
        return ""
    if provider not in NVIDIA_PROVIDERS:
        return UNKNOWN
    try:
        asked = ["nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    by_place = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return card_of(told, os.environ.get("CUDA_VISIBLE_DEVICES", "0"), by_place=by_place)


def card_of(told: str, visible: str, *, by_place: bool) -> str:
    """The graphics card that a process computes on: the first that it may see.

    Args:
        told: by nvidia-smi, a line with name and UUID for each card, by their places.
        visible: `CUDA_VISIBLE_DEVICES`: numbers or the beginnings of UUIDs.
        by_place: whether CUDA numbers cards by their places too. Else the fastest is 0, and which one that is nobody
            tells: of cards of different names all are named.
    """
    cards = [(name.strip(), uuid.strip()) for name, _, uuid in (line.rpartition(",") for line in told.splitlines())]
    first = visible.split(",", maxsplit=1)[0].strip()
    if first.isdecimal() and int(first) < len(cards):
        names = {name for name, _ in cards}
        return cards[int(first)][0] if by_place else " or ".join(sorted(names))
    found = [name for name, uuid in cards if first.startswith("GPU-") and uuid.startswith(first)]
    return found[0] if len(found) == 1 else UNKNOWN


def last_level_cache_bytes(caches: Path = CACHES) -> int | None:
    """The largest cache of the processor, where the system tells."""
    sizes = []
    for file in caches.glob("index*/size"):
        told = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip())
        if told:
            sizes.append(int(told[1]) * 1024 ** " KMG".index(told[2] or " "))
    return max(sizes, default=None)


def _release() -> str:
    if platform.system() != "Linux":
        return platform.release().partition(".")[0]
    try:
        told = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{told['ID']} {told.get('VERSION_ID', '')}".strip()
