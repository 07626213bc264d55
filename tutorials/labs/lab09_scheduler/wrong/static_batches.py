"""Nobody is admitted before the whole batch has ended: right, but the steps are empty."""
# Rejected: step 2, "reads long prompts in pieces, beside others": for step 3


class Scheduler:
    def admit(self):
        if self.running:
            return
        left = self.budget - sum(count for _, count in self.work)
        while self.waiting and left > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            needed = self.blocks_to_grow(sequence, sequence.num_missing()) + len(self.running)
            if needed > self.num_free:
                return
            self.running.append(self.waiting.popleft())
            count = min(left, sequence.num_missing())
            self.grow(sequence, count)
            left -= count
