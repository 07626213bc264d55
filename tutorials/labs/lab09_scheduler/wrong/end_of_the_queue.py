"""Whoever is pre-empted waits at the end of the queue, behind younger ones."""
# Rejected: step 3, "lets the youngest make room for the others": overtaken


class Scheduler:
    def make_room(self, sequence, count):
        while self.blocks_to_grow(sequence, count) > self.num_free:
            youngest = self.running.pop()
            self.release(youngest)
            self.waiting.append(youngest)
            if youngest is sequence:
                return False
        return True
