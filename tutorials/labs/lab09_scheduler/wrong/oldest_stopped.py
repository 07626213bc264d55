"""The oldest sequence is pre-empted: it is computed again and again, and never ends."""
# Rejected: step 3, "lets the youngest make room for the others": The youngest is pre-empted first


class Scheduler:
    def make_room(self, sequence, count):
        while self.blocks_to_grow(sequence, count) > self.num_free:
            youngest = self.running.pop(0)
            self.release(youngest)
            self.waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True
