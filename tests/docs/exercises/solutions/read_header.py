import json


def read_header(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], *(8 + size + at for at in entry["data_offsets"]))
        for name, entry in header.items()
    }
