import pytest
import torch

from lib.engine import checkpoint


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {
        "a": [torch.arange(6).view(2, 3).T, (1, 2.5, "x", None, True)],
        3: {"empty": torch.empty(0), "b": torch.ones(1, dtype=torch.bfloat16)},
        "g": torch.Generator().manual_seed(3).get_state(),
    }
    checkpoint.save(tmp_path / "deep" / "s.safetensors", state)
    got = checkpoint.load(tmp_path / "deep" / "s.safetensors")
    assert (
        list(got) == ["a", 3, "g"]
        and torch.equal(got["a"][0], state["a"][0])
        and got["a"][1] == state["a"][1]
        and isinstance(got["a"][1], tuple)
    )
    assert got[3]["b"].dtype == torch.bfloat16 and got[3]["empty"].shape == (0,) and torch.equal(got["g"], state["g"])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["s.safetensors"]


def test_a_shared_tensor_is_kept_twice(tmp_path):
    x = torch.zeros(2)
    checkpoint.save(tmp_path / "s.safetensors", [x, x])
    assert all(torch.equal(y, x) for y in checkpoint.load(tmp_path / "s.safetensors"))


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match="given object"):
        checkpoint.save(tmp_path / "s.safetensors", {"a": object()})
