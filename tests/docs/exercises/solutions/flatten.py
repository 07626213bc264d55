def flatten(new, before):
    positions, starts = [], [0]
    for count, start in zip(new, before, strict=True):
        positions += range(start, start + count)
        starts.append(starts[-1] + count)
    return positions, starts, [a + b for a, b in zip(new, before, strict=True)]
