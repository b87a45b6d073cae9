"""bf16 only where the processor has it; elsewhere torch would multiply entry by entry."""

import pytest
import torch

from weightspace.runtime import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("library", [True, False])
def test_bf16_where_the_cpu_has_it(supported, library, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    linear, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
    with precision("bf16", CPU):
        assert linear(x).dtype == (torch.bfloat16 if supported and library else torch.float32)
    with precision("float32", CPU):
        assert linear(x).dtype == torch.float32
