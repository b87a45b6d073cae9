"""The one fit loop: AdamW, warm-up and cosine decay, early stopping on val, ends at the best state."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.errors import problem
from weightspace.params import FitSettings
from weightspace.progress import progress
from weightspace.rng import torch_stream

# loss(rows, split, rng) -> named losses; the entry "loss" is minimised
Loss = Callable[[Tensor, str, torch.Generator], dict[str, Tensor]]
WARM_UP = 0.05  # fraction of all steps
CLIP = 1.0  # largest norm of the gradient of all that is fitted
BETAS = (0.9, 0.98)  # AdamW, Loshchilov and Hutter (2019), arXiv 1711.05101


def fit(
    name: str,
    module: nn.Module,
    loss: Loss,
    counts: dict[str, int],
    settings: FitSettings,
    seed: int,
    *,
    stream: str = "",
) -> pd.DataFrame:
    """Fit a module's parameters in place.

    Args:
        name: stage and section of params.yaml, for the progress bar and messages.
        module: what is fitted; ends at the epoch of the lowest val loss.
        loss: named losses of some rows of a split ("train" or "val"); on "val" it must draw only
            from the generator it is given, which is the same in every epoch.
        counts: rows of "train" and "val".
        settings: epochs, batch size, rates, patience.
        seed: root seed.
        stream: of the random numbers; by default the name.

    Returns:
        History: one row per epoch, columns ``epoch``, ``train_*`` and ``val_*``.

    Raises:
        WeightspaceError: nothing to fit, or the val loss is not finite.

    """
    if not counts["train"] or not counts["val"]:
        raise problem(
            "nothing to fit",
            where=name,
            got=counts,
            expected="train and val members",
            do="raise zoo.runs or check dataset.splits",
        )
    stream = stream or name
    rng = torch_stream(seed, stream, "fit")
    trained = [p for p in module.parameters() if p.requires_grad]
    module.zero_grad()  # frozen parts may hold those of an earlier fit
    optimizer = torch.optim.AdamW(
        trained, settings.lr, BETAS, weight_decay=settings.weight_decay, fused=True
    )
    per_epoch = math.ceil(counts["train"] / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(settings.epochs * per_epoch))
    rows, best, best_state = [], math.inf, _copied(module)
    with progress(name, settings.epochs) as bar:
        for epoch in range(1, settings.epochs + 1):
            train = _epoch(module, loss, counts["train"], per_epoch, (optimizer, schedule), rng)
            val = _validate(stream, module, loss, counts["val"], settings.batch_size, seed)
            rows.append({"epoch": epoch} | _mean(train, "train_") | _mean(val, "val_"))
            current = rows[-1]["val_loss"]
            if not math.isfinite(current):
                raise problem(
                    "val loss is not finite", where=f"{name}, epoch {epoch}", do=f"lower {name}.lr"
                )
            if current < best:
                best, best_epoch, best_state = current, epoch, _copied(module, best_state)
            bar.advance(note=f"val loss {current:.4f}, best {best:.4f}", metrics=rows[-1])
            if epoch - best_epoch >= settings.patience:
                break
    module.load_state_dict(best_state)
    module.eval()
    return pd.DataFrame(rows)


def _copied(module: nn.Module, room: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Copy of a module's state, into an earlier one; what is not saved with it is not copied."""
    state = module.state_dict()
    room = room or {name: torch.empty_like(x) for name, x in state.items()}
    for name, x in state.items():
        room[name].copy_(x)
    return room


def _epoch(
    module: nn.Module,
    loss: Loss,
    count: int,
    steps: int,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler],
    rng: torch.Generator,
) -> list[dict[str, Tensor]]:
    """One pass over the train rows in random order; the losses of every step.

    Args:
        module: what is fitted.
        loss: named losses of some rows.
        count: train rows.
        steps: batches of the epoch.
        optimizers: optimizer and schedule of its rate.
        rng: draws the order, and what the loss draws.

    """
    module.train()
    optimizer, schedule = optimizers
    out = []
    for batch in torch.randperm(count, generator=rng).chunk(steps):
        parts = loss(batch, "train", rng)
        optimizer.zero_grad()
        parts["loss"].backward()
        nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], CLIP)
        optimizer.step()
        schedule.step()
        out.append({k: v.detach() for k, v in parts.items()})
    return out


def _cosine(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate in each step: a linear rise, then half a cosine down to 0.

    >>> factor = _cosine(100)
    >>> [round(factor(step), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    warm = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return factor


def _validate(
    name: str, module: nn.Module, loss: Loss, count: int, size: int, seed: int
) -> list[dict[str, Tensor]]:
    """Losses of every batch of the val rows, on the same draws in every epoch.

    Args:
        name: stage name, for the random stream.
        module: what is fitted.
        loss: named losses of some rows.
        count: val rows.
        size: rows of a batch.
        seed: root seed.

    """
    module.eval()
    rng = torch_stream(seed, name, "val")
    with torch.no_grad():
        return [
            loss(batch, "val", rng) for batch in torch.arange(count).chunk(math.ceil(count / size))
        ]


def _mean(parts: list[dict[str, Tensor]], prefix: str) -> dict[str, float]:
    return {prefix + k: float(torch.stack([p[k] for p in parts]).double().mean()) for k in parts[0]}
