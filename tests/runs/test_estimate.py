import pytest
import torch

from tests.runs.conftest import STAGE
from threedgen.runs.estimate import estimate


@pytest.mark.parametrize("config", ["quickstart", "quickstart-sds"])
def test_an_estimate_is_the_sum_of_its_parts_and_writes_nothing(micro, tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = micro(f"{STAGE}.regularizers.orientation=0.1", config=config)
    before = repr(settings)
    found = estimate(settings)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert ("stage coarse, sampling" in found.parts) == (config == "quickstart")
    assert 2**27 < found.peak_bytes < 2**34
    assert repr(settings) == before
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == 2
