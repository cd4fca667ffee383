"""Small checkpoints and facts for the tests of the report; nothing is trained."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, build_model

from neuroprune_experiments.report.facts import AttentionFacts, MLPFacts, ModelFacts, Pattern
from neuroprune_fairseq.compact.cutting import compact, make_plan
from neuroprune_fairseq.compact.state import compact_state
from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

ARCH = "transformer_18x6_tiny"
FLAGS = {
    "neuroprune": {"task": "translation_neuroprune", "head_distance_threshold": 0.3},
    "dsp": {"task": "translation_neuroprune", "pruner": "dsp", "dsp_mode": "joint"},
    "plain": {"task": "translation"},
}


def make_model(method="plain", seed=1, **settings):
    """A model of 2 + 2 layers and its settings: 6 modules of 6 heads, width 48, FFN 96."""
    args = Namespace(arch=ARCH, _name=ARCH, share_all_embeddings=True, **FLAGS[method])
    args.encoder_layers = args.decoder_layers = 2
    for name, value in settings.items():
        setattr(args, name, value)
    ARCH_CONFIG_REGISTRY[ARCH](args)
    dictionary = Dictionary()
    for i in range(20):
        dictionary.add_symbol(f"w{i}")
    torch.manual_seed(seed)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return build_model(args, task).eval(), args


@torch.no_grad()
def prune_(model, heads=(0, 1, 2)):
    """The same heads of every module, none left in the last; a third of the neurons."""
    blocks = attention_blocks(model)
    for block in blocks[:-1]:
        zero_heads_(block, torch.tensor(heads))
    zero_heads_(blocks[-1], torch.arange(6))
    for block in mlp_blocks(model):
        block.fc1.weight[:32] = 0.0
        block.fc2.weight[:, :32] = 0.0


def state_of(model, settings, num_updates=10):
    return {
        "args": None,
        "cfg": {"model": settings},
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": num_updates}],
        "extra_state": {},
    }


def write_checkpoint(path, method="plain", pruned=(), is_compact=False, **settings):
    """A checkpoint, made compact if asked for; its folder is made where missing."""
    model, args = make_model(method, **settings)
    if pruned:
        prune_(model, pruned)
    state = state_of(model, args)
    if is_compact:
        plan = make_plan(model)
        state = compact_state(state, model, compact(model, plan), plan, keep_optimizer=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def epoch_record(epoch, kept, replaced=None, heads=None, num_updates=None):
    """A line of neuroprune.jsonl; ``heads`` are left in encoder.layers.0.self_attn."""
    record = {
        **{"epoch": epoch, "num_updates": num_updates or 5 * epoch, "heads_kept": kept},
        **{"attn_sparsity": 0.1 * epoch, "mlp_sparsity": 0.2, "total_sparsity": 0.15},
    }
    if replaced is not None:
        name = "encoder.layers.0.self_attn"
        record["modules"] = [{"module": name, "heads_kept": heads or [], "replaced": replaced}]
    return record


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def attention(mask, name="encoder.layers.0.self_attn", scores=None, kind="encoder_self"):
    """Facts of a module; mask is a string such as '110', 1 = kept."""
    kept = np.array([sign == "1" for sign in mask])
    importance = np.ones(len(mask)) if scores is None else np.array(scores, dtype=float)
    return AttentionFacts(name, kind, len(mask), kept, importance, ())


def mlp(degrees, columns, name="encoder.layers.0"):
    """Facts of an MLP with the same degrees in fc1 and fc2."""
    own = np.array(degrees)
    pattern = Pattern((len(own), columns), (len(own), columns), np.zeros((1, 1), dtype=np.uint8))
    parts = ("fc1", "fc2")
    return MLPFacts(name, dict.fromkeys(parts, own), dict.fromkeys(parts, pattern))


def facts(modules=(), mlps=(), method="neuroprune", label="m", total=0.5):
    sparsity = {f"{part}_sparsity": total for part in ("attn", "mlp", "total")}
    return ModelFacts(label, method, False, 1, 1, sparsity, tuple(modules), tuple(mlps))
