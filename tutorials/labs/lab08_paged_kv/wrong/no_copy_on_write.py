"""A sequence writes into a block that a fork still reads."""
# Rejected: step 2, "shares with a fork, and copies before writing": a copy is missing


class BlockTables:
    def append(self, name, count):
        blocks, size = self.blocks[name], self.block_size
        first = self.num_tokens[name]
        last = first + count
        must_copy = False
        missing = -(-last // size) - len(blocks)
        if missing + must_copy > self.allocator.num_free():
            raise OutOfBlocksError(f"{missing + must_copy} blocks are needed")
        copies = []
        if must_copy:
            copies.append((blocks[-1], self.allocator.allocate()))
            self.allocator.free(blocks[-1])
            blocks[-1] = copies[0][1]
        for _ in range(missing):
            blocks.append(self.allocator.allocate())
        self.num_tokens[name] = last
        return [blocks[p // size] * size + p % size for p in range(first, last)], copies
