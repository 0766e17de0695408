"""The head's loss by Liger-Kernel against ours: its kernels run in Triton's interpreter here,
compiled where there is a GPU.
"""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import torch
from raysparse.model import loss
device = "cuda" if torch.cuda.is_available() else "cpu"
generator = torch.Generator().manual_seed(0)
f, b = torch.float32, torch.bfloat16
for dtype, stored in ((f, f), (b, f), (b, b)):
    hidden = torch.randn(21, 12, generator=generator).to(device, dtype).requires_grad_()
    head = torch.randn(37, 12, generator=generator).to(device, stored).requires_grad_()
    targets = torch.randint(0, 37, (21,), generator=generator).to(device)
    results = []
    for fused in (loss.liger_loss(), None):
        loss._fused = lambda hidden: fused
        total = loss.head_loss(hidden, head, targets)
        results.append([total, *torch.autograd.grad(total / 21, (hidden, head))])
    rtol = 1e-5 if dtype == torch.float32 else 2e-2
    for one, two in zip(*results, strict=True):
        assert one.dtype == two.dtype
        torch.testing.assert_close(one, two, rtol=rtol, atol=rtol)
"""


@pytest.mark.slow
def test_the_fused_loss_and_its_gradients_are_ours():
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    where = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **where}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
