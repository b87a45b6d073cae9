"""weightspace: learn a latent space of network weights and sample from P(W | D, R).

``weightspace.load`` and its kin are imported on first use (PEP 562), so that the package and its
command line start without torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "GivenTask",
    "ImageSet",
    "Network",
    "Project",
    "Samples",
    "evaluate_method",
    "import_zoo",
    "load",
    "load_network",
]

# Idle threads sleep instead of spinning: a fit beside another busy process is then 1.5 times slower
# and not 50 times (measured on 2 cores). OpenMP reads it once, when torch is loaded, and every
# command, stage and worker comes through this file before. A value of the user's stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from weightspace.data.images import GivenTask, ImageSet
    from weightspace.leaderboard.evaluate import evaluate_method
    from weightspace.project.network import Network, load_network
    from weightspace.project.project import Project, import_zoo, load
    from weightspace.project.samples import Samples

_HOMES = {
    "project.project": ("Project", "import_zoo", "load"),
    "project.network": ("Network", "load_network"),
    "data.images": ("GivenTask", "ImageSet"),
    "project.samples": ("Samples",),
    "leaderboard.evaluate": ("evaluate_method",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted({*globals(), *__all__})
