"""Ranks on two hosts: two daemons of mpirun's, each in a namespace with a name of its own."""

import subprocess

import pytest
from ranks import PROGRAMS

LIMIT_S = 2


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

    def run(*arguments):
        hosts = ("--host", "node-a:2,node-b:2", "--map-by", "ppr:2:node")
        ssh = ("--prtemca", "plm_ssh_agent", str(agent))
        return mpirun(
            4,
            PROGRAMS / "on_hosts.py",
            *arguments,
            options=(*hosts, *ssh, "-x", "PYTHONPATH", "-x", "LLM_NUMBA_STALL_S"),
            OMPI_MCA_btl="self,sm,tcp",
            # All there is that both can reach.
            OMPI_MCA_btl_tcp_if_include="lo",
            LLM_NUMBA_STALL_S=str(LIMIT_S),
        )

    return run


def test_ranks_of_two_hosts_meet(on_two_hosts):
    ended = on_two_hosts()
    assert ended.code == 0, ended.err
    assert ended.out.split() == ["met"] * 4
    assert ended.orphans == []


@pytest.mark.slow
def test_who_shares_a_host_with_a_rank_that_stalls_says_more(on_two_hosts):
    ended = on_two_hosts("stall")
    assert ended.code != 0
    assert "Error on rank 2 (node-b): Rank 3 did not come to barrier within 2 s" in ended.err
    assert "on node-b) was last in" in ended.err
    assert ended.orphans == []
