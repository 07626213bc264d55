"""Admits whatever fits, and leaves those that run no block to grow into."""
# Rejected: step 2, "leaves those that run a block to grow": with 5 blocks


class Scheduler:
    def admit(self):
        left = self.budget - sum(count for _, count in self.work)
        while self.waiting and left > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            needed = self.blocks_to_grow(sequence, sequence.num_missing())
            if needed > self.num_free:
                return
            self.running.append(self.waiting.popleft())
            count = min(left, sequence.num_missing())
            self.grow(sequence, count)
            left -= count
