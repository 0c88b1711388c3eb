"""The same answer at most once a second, in a memory that does not grow."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.core.repeats import MAX_ANSWERS, REPEAT_SECONDS, RecentAnswers

ANSWERS = st.sampled_from([("reader", "task", number) for number in range(6)])
SIZE = 4


def test_an_answer_waits_until_the_second_is_over():
    answers = RecentAnswers()
    assert answers.wait("a", now=10.0) == 0
    answers.give("a", now=10.0)
    assert answers.wait("a", now=10.25) == 0.75
    assert answers.wait("b", now=10.25) == 0
    assert answers.wait("a", now=11.0) == 0


def test_a_flood_of_names_takes_no_more_memory_than_a_few():
    answers = RecentAnswers()
    for number in range(3 * MAX_ANSWERS):
        answers.give(("reader", "x" * 1024, number), now=number * 1e-6)
    assert len(answers) == MAX_ANSWERS
    answers.give("a", now=60.0)
    assert len(answers) == 1


class Remembered(RuleBasedStateMachine):
    """Against a dict of all answers ever given."""

    def __init__(self):
        super().__init__()
        self.answers = RecentAnswers(SIZE)
        self.now = 0.0
        self.given = {}

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(answer=ANSWERS)
    def answer_is_given(self, answer):
        self.answers.give(answer, now=self.now)
        self.given.pop(answer, None)
        self.given[answer] = self.now

    @precondition(lambda self: self.given)
    @rule(answer=ANSWERS)
    def the_newest_wait_the_rest_of_their_second(self, answer):
        newest = dict(list(self.given.items())[-SIZE:])
        expected = max(newest[answer] + REPEAT_SECONDS - self.now, 0.0) if answer in newest else 0.0
        assert self.answers.wait(answer, now=self.now) == expected

    @invariant()
    def no_more_than_so_many_are_kept(self):
        assert len(self.answers) <= SIZE


TestRemembered = Remembered.TestCase
