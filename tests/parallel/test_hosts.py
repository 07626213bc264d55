"""Ranks on two hosts: two daemons of mpirun's, each in a namespace with a name of its own.

And the batch script that starts ranks on a cluster, as far as it can be tried without one.
"""

import json
import os
import subprocess

import pytest
from ranks import PROGRAMS, ROOT

from llm_numba import LLM, SamplingParams

MEETING = PROGRAMS / "on_hosts.py"
LIMIT_S = 3
BATCH = ROOT / "docs" / "parallel" / "scripts" / "llm_numba.sbatch"
# What Slurm tells the script of two nodes, two ranks each.
ALLOCATION = {"SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}


@pytest.fixture(name="on_two_hosts")
def _on_two_hosts(mpirun, tmp_path):
    """Run a program on four ranks; what mpirun takes for ssh stays on this machine."""
    # Whoever is not root is so in a namespace of users.
    namespace = ["unshare", "--user", "--map-root-user", "--uts"]
    try:
        made = subprocess.run([*namespace, "hostname", "node-a"], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no namespaces here: {error}")
    if made.returncode:
        pytest.skip(f"no namespaces here: {made.stderr.strip()}")
    agent = tmp_path / "agent"
    agent.write_text(
        "#!/bin/bash\n"
        'while [[ "$1" == -* ]]; do shift; done\n'
        "host=$1; shift\n"
        f'exec {" ".join(namespace)} bash -c "hostname $host; $*"\n'
    )
    agent.chmod(0o755)

    def run(*command, limit_s=LIMIT_S):
        hosts = ("--host", "node-a:2,node-b:2", "--map-by", "ppr:2:node")
        ssh = ("--prtemca", "plm_ssh_agent", str(agent))
        return mpirun(
            4,
            *command,
            options=(*hosts, *ssh, "-x", "PYTHONPATH", "-x", "LLM_NUMBA_STALL_S"),
            OMPI_MCA_btl="self,sm,tcp",
            # All there is that both can reach.
            OMPI_MCA_btl_tcp_if_include="lo",
            LLM_NUMBA_STALL_S=str(limit_s),
        )

    return run


def test_ranks_of_two_hosts_meet(on_two_hosts):
    ended = on_two_hosts(MEETING, limit_s=60)
    assert ended.code == 0, ended.err
    assert ended.out.split() == ["met"] * 4
    assert ended.orphans == []


@pytest.mark.slow
def test_who_shares_a_host_with_a_rank_that_stalls_says_more(on_two_hosts):
    ended = on_two_hosts(MEETING, "stall")
    assert ended.code != 0
    assert "Error on rank 2 (node-b): Rank 3 did not come to barrier within 3 s" in ended.err
    assert "on node-b) was last in" in ended.err
    assert ended.orphans == []


@pytest.fixture(name="submit")
def _submit(tmp_path):
    """Run the batch script where launchers do no more than write down how they are called.

    The function returns the launcher with its options, and the arguments of `llm-numba` behind it.
    """
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for launcher in ("srun", "mpirun"):
        program = programs / launcher
        program.write_text('#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@"\n')
        program.chmod(0o755)

    def run(**variables):
        settings = {"PATH": os.environ["PATH"], "VENV": str(programs.parent)}
        command = ["bash", BATCH]
        ran = subprocess.run(
            command, env=settings | ALLOCATION | variables, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        words = ran.stdout.split("\0")[:-1]
        program = words.index("llm-numba")
        return words[:program], words[program + 1 :]

    return run


def test_slurm_reads_every_directive_of_the_batch_script():
    assert subprocess.run(["bash", "-n", BATCH]).returncode == 0
    lines = BATCH.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(number for number, line in enumerate(lines) if line[:1] not in ("", "#"))
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH --")]
    # Behind the first command sbatch looks for no more.
    assert directives
    assert max(directives) < first_command


def test_the_batch_script_numbers_ranks_node_by_node_by_either_launcher(submit):
    srun, command = submit()
    assert {"--mpi=pmix", "--distribution=block", "--cpus-per-task=1"} < set(srun)
    assert " ".join(command).count("--tp 2 --pp 2") == 1
    launcher, same_command = submit(LAUNCHER="mpirun")
    assert " ".join(launcher).startswith("mpirun -n 4 --map-by ppr:2:node:pe=1 ")
    assert same_command == command
    assert " ".join(submit(TP="4")[1]).count("--tp 4 --pp 1") == 1


@pytest.mark.slow
def test_what_the_batch_script_starts_writes_on_two_hosts_what_one_rank_writes(
    on_two_hosts, submit, tiny_dir
):
    _, command = submit(MODEL=str(tiny_dir))
    prompt = command[command.index("--prompt") + 1]
    params = SamplingParams(temperature=0.0, max_tokens=40)
    expected = LLM(tiny_dir, device="cpu").generate(prompt, params)[0].outputs[0].token_ids
    ended = on_two_hosts("-m", "llm_numba", *command, "--json", limit_s=30)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["outputs"][0]["token_ids"] == expected
    assert ended.orphans == []
