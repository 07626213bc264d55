"""Off by one: M + R slots, the last of which is idle everywhere."""
# Rejected: step 1, "fills, runs and drains": timetable(3, 4)


def timetable(stages, micro_batches):
    slots = micro_batches + stages
    return [
        [t - stage if 0 <= t - stage < micro_batches else None for t in range(slots)]
        for stage in range(stages)
    ]
