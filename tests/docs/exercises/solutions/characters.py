def characters(pieces):
    held = b""
    for piece in pieces:
        held += piece
        text = held.decode(errors="ignore")
        held = held[len(text.encode()) :]
        yield text
