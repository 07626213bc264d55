import math


def attend(q, keys_and_values, scale):
    highest, total, mixed = -math.inf, 0.0, 0.0 * q
    for k, v in keys_and_values:
        score = scale * sum(a * b for a, b in zip(q, k, strict=True))
        new_highest = max(highest, score)
        # What was summed so far was measured against the old maximum: bring it to the new one.
        correction = math.exp(highest - new_highest)
        weight = math.exp(score - new_highest)
        total = total * correction + weight
        mixed = mixed * correction + weight * v
        highest = new_highest
    return mixed / total
