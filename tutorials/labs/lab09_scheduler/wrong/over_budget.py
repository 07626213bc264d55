"""Prompts that are admitted get the whole budget, whatever the step computes already."""
# Rejected: step 2, "reads long prompts in pieces, beside others": The budget is 8


class Scheduler:
    def admit(self):
        left = self.budget
        while self.waiting and left > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            needed = self.blocks_to_grow(sequence, sequence.num_missing()) + len(self.running)
            if needed > self.num_free:
                return
            self.running.append(self.waiting.popleft())
            count = min(left, sequence.num_missing())
            self.grow(sequence, count)
            left -= count
