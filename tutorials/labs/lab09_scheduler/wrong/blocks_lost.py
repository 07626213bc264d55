"""The blocks of a pre-empted sequence are not given back: the cache shrinks."""
# Rejected: step 3, "lets the youngest make room for the others": could have stayed


class Scheduler:
    def make_room(self, sequence, count):
        while self.blocks_to_grow(sequence, count) > self.num_free:
            youngest = self.running.pop()
            youngest.num_blocks = youngest.num_computed = 0
            self.waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True
