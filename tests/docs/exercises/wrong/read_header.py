import json


def read_header(path):
    # Offsets count from the end of the header, not from the beginning of the file.
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {n: (e["dtype"], e["shape"], *e["data_offsets"]) for n, e in header.items()}
