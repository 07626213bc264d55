def characters(pieces):
    # Each piece on its own: a character that is cut in two becomes two replacement characters.
    for piece in pieces:
        yield piece.decode(errors="replace")
