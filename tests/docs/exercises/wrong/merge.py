def merge(pieces, ranks):
    # From left to right, whatever comes first: not the pair that was learnt first.
    i = 0
    while i + 1 < len(pieces):
        if (pieces[i], pieces[i + 1]) in ranks:
            pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
        else:
            i += 1
    return pieces
