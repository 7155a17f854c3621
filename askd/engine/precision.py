"""Which number format a device trains in, and why."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from askd.collectives import world_size
from askd.errors import RecipeError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass; dtype None is float32 throughout, `scaler`: losses must be scaled."""

    device_type: str
    dtype: torch.dtype | None
    scaler: bool
    why: str

    def autocast(self) -> AbstractContextManager:
        """The context to run the forward pass in."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, self.dtype)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, one that passes everything through where none is needed; its ranks skip a step together."""
        if not self.scaler or world_size() == 1:
            return torch.amp.GradScaler(self.device_type, enabled=self.scaler)
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # it takes a while, and few need it

        return ShardedGradScaler(self.device_type)


def choose_precision(name: str, device: torch.device | str) -> Precision:
    """The precision `name` (auto, fp32, bf16 or fp16) on a device; raises RecipeError on any other name.

    auto: bf16 where the device computes it in hardware, otherwise fp16 with a loss scaler on CUDA and fp32 on CPU.
    """
    device = torch.device(device)
    if name == "auto":
        name, why = _best(device)
    elif name in DTYPES:
        why = f"{name}, as asked for"
    else:
        raise RecipeError(f"unknown precision {name!r}; choose from auto, {', '.join(DTYPES)}")
    return Precision(device.type, DTYPES[name], scaler=name == "fp16", why=why)


def _best(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", f"bf16, which {torch.cuda.get_device_name(device)} has"
        return "fp16", f"fp16 with a loss scaler, as {torch.cuda.get_device_name(device)} has no bf16"
    if device.type == "cpu":
        # oneDNN runs bf16 on any AVX-512 CPU, but only these units make it faster than float32.
        capabilities = torch.cpu.get_capabilities()
        units = [unit for unit in ("amx_bf16", "avx512_bf16") if capabilities.get(unit)]
        if units:
            return "bf16", f"bf16, as this CPU has {units[0]}"
    return "fp32", f"fp32, as this {device.type} has no fast bf16"
