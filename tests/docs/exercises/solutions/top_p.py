def top_p(probs, p):
    mass, least = 0.0, 1.0
    for value in sorted(probs, reverse=True):
        if mass >= p:
            break
        mass, least = mass + value, value
    kept = [value if value >= least else 0.0 for value in probs]
    return [value / sum(kept) for value in kept]
