"""What holds while a translation task trains."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from neuroprune_fairseq.plugin.guarded_task import LOCK_NAME, GuardedTask

TRY = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("locked")
"""


def locked(path) -> bool:
    done = subprocess.run([sys.executable, "-c", TRY, path], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "locked")
    return done.returncode != 0


def test_a_save_dir_stays_locked_in_every_epoch_and_is_free_after_the_run(build_model, tmp_path):
    task = GuardedTask.__new__(GuardedTask)  # without a corpus
    task.cfg = SimpleNamespace(save_dir=str(tmp_path))
    model = build_model(encoder_layers=1, decoder_layers=1)
    for epoch in (1, 2, 3):
        task.begin_epoch(epoch, model)
        assert locked(tmp_path / LOCK_NAME)
    del task
    assert not locked(tmp_path / LOCK_NAME)
