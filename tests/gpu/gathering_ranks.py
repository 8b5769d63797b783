"""Runs ``test_gathering_on_gpus.py`` under torchrun: gathers rows that know their rank, and keeps what came back."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from umekit.trainers.distributed import gather_rows

if __name__ == "__main__":
    backend, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group(backend)
    rank = dist.get_rank()
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    rows = torch.full((2 + rank, 3), float(rank + 1), device=device, requires_grad=True)
    gathered = gather_rows(rows)
    (gathered * torch.arange(5.0, device=device)[:, None]).sum().backward()
    assert rows.grad is not None
    torch.save({"rows": gathered.detach().cpu(), "grad": rows.grad.cpu()}, folder / f"{rank}.pt")
    dist.destroy_process_group()
