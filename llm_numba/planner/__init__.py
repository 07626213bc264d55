"""Many GPUs on paper: what each would hold, and how fast a model cut among them would be."""

from llm_numba.planner.gpus import GPU, GPUS, LINKS, Link, find_gpu, find_link
from llm_numba.planner.memory import RankMemory, plan_stages, rank_memory
from llm_numba.planner.plan import Plan, Question, Rounds, make_plan
from llm_numba.planner.split import Division, Rank, cut
from llm_numba.planner.table import KernelTable, packaged_table

__all__ = [
    "GPU",
    "GPUS",
    "LINKS",
    "Division",
    "KernelTable",
    "Link",
    "Plan",
    "Question",
    "Rank",
    "RankMemory",
    "Rounds",
    "cut",
    "find_gpu",
    "find_link",
    "make_plan",
    "packaged_table",
    "plan_stages",
    "rank_memory",
]
