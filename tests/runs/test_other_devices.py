"""A run that goes on where there are more or fewer devices says so."""

import json

import jax
import pytest
from fake_run import FakePrograms, fake_config

from dipod_jax.training import loop


@pytest.mark.slow
@pytest.mark.parametrize("begun", [8, None, "many"])
def test_a_resume_on_another_number_of_devices_says_so(tmp_path, monkeypatch, capsys, begun):
    monkeypatch.setattr(loop, "make_programs", lambda config, seeds: FakePrograms(seeds))
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)
    loop.train(fake_config(tmp_path / "run"))
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    assert record["machine"]["device_count"] == jax.device_count()
    assert "begun on" not in capsys.readouterr().out
    record["machine"]["device_count"] = begun
    path.write_text(json.dumps(record))
    loop.train(fake_config(tmp_path / "run", resume=True, total_steps=320))
    out = capsys.readouterr().out
    line = f"begun on 8 devices, going on with {jax.device_count()}: the same run but for rounding"
    assert (line in out) == (begun == 8) and "begun on many" not in out
