"""Checkpoints written in training are plain fairseq checkpoints."""

from __future__ import annotations

import pytest
from conftest import USER_DIR
from fairseq import options
from fairseq_cli import generate


@pytest.mark.parametrize("task", ["translation", "translation_neuroprune"])
def test_stock_generate_decodes_a_pruned_checkpoint(run_train, corpus, tmp_path, capsys, task):
    run_train("--max-epoch", 1, "--head-distance-threshold", 100)
    # fairseq drops a last batch that is no multiple of 8 sentences, unless told otherwise
    flags = ["--required-batch-size-multiple", "1", "--max-len-b", "20"]
    flags += ["--path", str(tmp_path / "run" / "checkpoint_last.pt"), "--cpu", "--task", task]
    parser = options.get_generation_parser()
    arguments = [str(corpus), "--user-dir", USER_DIR, "--beam", "2", "--num-workers", "0", *flags]
    generate.main(options.parse_args_and_arch(parser, arguments))
    hypotheses = [line for line in capsys.readouterr().out.splitlines() if line.startswith("H-")]
    assert len(hypotheses) == 20
