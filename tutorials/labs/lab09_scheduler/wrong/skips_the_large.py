"""A request that does not fit is skipped: smaller ones overtake it for ever."""
# Rejected: step 2, "leaves those that run a block to grow": overtaken


class Scheduler:
    def admit(self):
        left = self.budget - sum(count for _, count in self.work)
        for sequence in list(self.waiting):
            if left == 0 or len(self.running) == self.max_num_seqs:
                return
            needed = self.blocks_to_grow(sequence, sequence.num_missing()) + len(self.running)
            if needed > self.num_free:
                continue
            self.waiting.remove(sequence)
            self.running.append(sequence)
            count = min(left, sequence.num_missing())
            self.grow(sequence, count)
            left -= count
