"""MuJoCo's warnings are in the run's folder, bounded, and said once."""

import mujoco

from dipod_jax.runs import mujoco_log
from dipod_jax.runs.mujoco_log import MujocoLog

SLIDER = "<mujoco><worldbody><body><joint type='slide'/><geom size='.1'/></body></worldbody></mujoco>"


def warn(times: int) -> None:
    model = mujoco.MjModel.from_xml_string(SLIDER)
    for _ in range(times):
        data = mujoco.MjData(model)
        data.qpos[0] = float("nan")
        mujoco.mj_step(model, data)


def test_warnings_go_to_the_run_folder_are_said_once_and_end_at_the_limit(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    mujoco_log._configure(logfile="MUJOCO_LOG.TXT", logto_file=True, logto_console=True)
    monkeypatch.setattr(mujoco_log, "MAX_BYTES", 1000)
    (tmp_path / "run").mkdir()
    said = []
    log = MujocoLog(tmp_path / "run", said.append)
    log.check()
    assert said == []
    for _ in range(10):
        warn(5)
        log.check()
    size = (tmp_path / "run" / "MUJOCO_LOG.TXT").stat().st_size
    assert 1000 < size < 1000 + 5 * 150 and len(said) == 1 and "MUJOCO_LOG.TXT" in said[0]
    assert capfd.readouterr() == ("", "") and not (tmp_path / "MUJOCO_LOG.TXT").exists()
    log.close()
    warn(1)
    assert (tmp_path / "MUJOCO_LOG.TXT").exists()
    capfd.readouterr()
