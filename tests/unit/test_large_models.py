"""A sharded model of 100 GB is described at once: its files are sparse, their headers true."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import torch

import perdure

N_SHARDS, N_TENSORS, SHAPE = 16, 1000, [5000, 5000]
TENSOR_BYTES = 4 * SHAPE[0] * SHAPE[1]


def make_sharded(folder: Path) -> None:
    """Write a sharded model of zeros in another writer's layout that takes no room on the disk."""
    names = [f"layers.{number // 10}.part{number % 10}.weight" for number in range(N_TENSORS)]
    weight_map = {}
    for shard in range(N_SHARDS):
        held = names[shard::N_SHARDS]
        entries = {
            name: {"dtype": "F32", "shape": SHAPE, "data_offsets": [i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES]}
            for i, name in enumerate(held)
        }
        file = f"model-{shard + 1:05d}-of-{N_SHARDS:05d}.safetensors"
        header = json.dumps(entries).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(header)) + header)
        os.truncate(folder / file, 8 + len(header) + len(held) * TENSOR_BYTES)
        weight_map.update(dict.fromkeys(held, file))
    index = {
        "metadata": {"total_size": N_TENSORS * TENSOR_BYTES},
        "weight_map": {name: weight_map[name] for name in names},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_info_of_100_gb_reads_headers_alone(tmp_path):
    make_sharded(tmp_path)
    found = perdure.info(tmp_path)
    assert found.n_bytes > 100 * 10**9
    assert len(found.tensors) == N_TENSORS
    assert len(found.files) == N_SHARDS
    assert found.tensors[-1].shape == tuple(SHAPE)


MEASURED = """
import sys
from perdure.summaries.files import summarize_file
def read(): return int(open("/proc/self/io").read().split()[1])
read()
before = read()
found = summarize_file(sys.argv[1])
n_read = read() - before
assert not {"torch", "numpy"} & sys.modules.keys()
peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
print(n_read, peak, found.n_parameters, found.n_bytes, len(found.rows))
"""


def test_a_summary_of_100_gb_reads_headers_alone_in_little_memory_and_time(tmp_path):
    make_sharded(tmp_path)
    headers = sum(file.stat().st_size for file in tmp_path.iterdir()) - N_TENSORS * TENSOR_BYTES
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    n_read, peak_kib, *found = map(int, done.stdout.split())
    assert headers <= n_read < headers + 1000  # the rest is what /proc/self/io itself says
    assert peak_kib < 100 * 1024
    assert found == [N_TENSORS * SHAPE[0] * SHAPE[1], N_TENSORS * TENSOR_BYTES, 1 + 1 + 100 + N_TENSORS]
    assert seconds < 5  # less than 1 on a machine that does nothing else


def test_the_command_answers_within_a_second_and_little_memory(tmp_path):
    make_sharded(tmp_path)
    script = (
        "import sys; from perdure.cli.main import commands\n"
        "commands(['info', sys.argv[1]], standalone_mode=False)\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
    )
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 1.0
    assert int(done.stderr) < 100 * 1024
    assert "layers" in done.stdout
    assert "{0..99} × 100" in done.stdout


def test_one_tensor_is_mapped_without_opening_the_other_shards(tmp_path):
    make_sharded(tmp_path)
    for file in list(tmp_path.glob("model-*.safetensors"))[1:]:
        if "00001" not in file.name.split("-of-")[0]:
            file.unlink()
    weights = perdure.open(tmp_path)
    assert torch.equal(weights["layers.0.part0.weight"][17, :5], torch.zeros(5))
