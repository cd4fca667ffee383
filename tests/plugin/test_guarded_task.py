"""What holds while a translation task trains."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from neuroprune_fairseq.plugin.flags import TaskFlags
from neuroprune_fairseq.plugin.guards import LOCK_NAME
from neuroprune_fairseq.plugin.loop import Loop

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
    loop = Loop(TaskFlags(save_dir=str(tmp_path), seed=1, max_epoch=3, max_update=0))
    loop.iterator = SimpleNamespace(iterations_in_epoch=0)
    model = build_model(encoder_layers=1, decoder_layers=1)
    for epoch in (1, 2, 3):
        loop.begin_epoch(epoch, model)
        assert locked(tmp_path / LOCK_NAME)
    del loop
    assert not locked(tmp_path / LOCK_NAME)
