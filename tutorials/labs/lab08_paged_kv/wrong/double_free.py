"""A block that is free already is freed once more, and then handed out twice."""
# Rejected: step 1, "refuses a double free": double free


class BlockAllocator:
    def free(self, block):
        self.owners[block] = max(0, self.owners[block] - 1)
        if self.owners[block] == 0:
            self.free_blocks.append(block)
