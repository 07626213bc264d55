"""Off by one: a full block makes the sequence take the next one at once."""
# Rejected: step 2, "takes a block when a token needs it": It needs 1


class BlockTables:
    def append(self, name, count):
        blocks, size = self.blocks[name], self.block_size
        first = self.num_tokens[name]
        last = first + count
        must_copy = first % size != 0 and self.allocator.num_owners(blocks[-1]) > 1
        missing = last // size + 1 - len(blocks)
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
