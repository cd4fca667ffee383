"""What holds while a translation task trains."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from fairseq.tasks.translation import TranslationTask

from neuroprune_fairseq.plugin.flags import TaskFlags
from neuroprune_fairseq.plugin.guards import LOCK_NAME, check_corpus
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


def test_a_corpus_of_several_pairs_is_refused_unless_one_is_named(tmp_path):
    for name in ("de-en.de", "de-en.en", "fr-en.fr", "fr-en.en"):
        (tmp_path / f"train.{name}.idx").touch()
        (tmp_path / f"train.{name}.bin").touch()
    settings = SimpleNamespace(data=str(tmp_path), source_lang=None, target_lang=None)
    with pytest.raises(SystemExit, match="holds de-en, fr-en: name one with --source-lang and --t"):
        check_corpus(TranslationTask, settings)
    settings.source_lang, settings.target_lang = "fr", "en"
    check_corpus(TranslationTask, settings)
