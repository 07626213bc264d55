"""The grader of the labs: runs a student's file, counts what it costs, and explains.

A ``lab.py`` uses these names; the page "Labs: for instructors" shows how.
"""

from grader.lab import Lab, Step
from grader.student import Ran, Student
from grader.verdict import Failed, close, fail, gamma, same

__all__ = ["Failed", "Lab", "Ran", "Step", "Student", "close", "fail", "gamma", "same"]
