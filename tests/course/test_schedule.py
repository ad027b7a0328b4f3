"""What runs when: order, places, what runs alone, and the wall minutes left; without processes."""

import random
from typing import ClassVar

import pytest

from vlmcourse.course import schedule as module
from vlmcourse.course.schedule import Job, Schedule, work_off


def table(*rows, places=2) -> Schedule:
    """Jobs from (name, minutes, after as words, flag)."""
    made = []
    for name, minutes, after, *flags in rows:
        kind = dict.fromkeys(flags, True)
        made.append(Job(name, name.upper(), minutes, tuple(after.split()), **kind))
    return Schedule(made, places)


def order(schedule: Schedule) -> list[str]:
    """Names in the order in which they begin, when jobs take their minutes."""
    begun, ended, left = [], set(), {}
    while True:
        while job := schedule.pick(ended, left.keys()):
            begun.append(job.name)
            if job.minutes:
                left[job.name] = job.minutes
            else:
                ended.add(job.name)
        if not left:
            return begun
        first = min(left, key=left.__getitem__)
        left = {name: minutes - left[first] for name, minutes in left.items() if name != first}
        ended.add(first)


def test_the_longest_row_of_jobs_begins_first():
    two = table(("short", 4, ""), ("first", 1, ""), ("second", 9, "first"), ("last", 1, "second"))
    assert order(two) == ["first", "short", "second", "last"]
    assert two.minutes_left() == 11
    one = table(("short", 4, ""), ("first", 1, ""), ("second", 9, "first"), places=1)
    assert order(one) == ["first", "second", "short"]
    assert one.minutes_left() == 14


def test_what_needs_the_machine_alone_gets_it_first():
    made = table(("a", 5, ""), ("b", 3, ""), ("world", 1, "", "alone"), ("c", 2, "b", "alone"))
    assert order(made) == ["world", "a", "b", "c"]
    assert made.pick(set(), {"world"}) is None
    assert made.pick({"world", "b"}, {"a"}) is None, "c waits for a, and nothing else begins"
    assert made.minutes_left() == 1 + 5 + 2


def test_chapters_run_one_at_a_time_and_as_soon_as_they_can():
    made = table(
        ("train", 8, ""), ("other", 2, ""), ("measure", 1, "train"),
        ("00", 1, "", "chapter"), ("01", 1, "", "chapter"), ("02", 1, "measure", "chapter"),
    )  # fmt: skip
    assert order(made) == ["00", "train", "01", "other", "measure", "02"]
    assert made.pick({"train", "measure"}, {"00"}).name == "other"
    assert made.minutes_left() == 10


def test_what_is_reused_takes_no_time_and_holds_nothing_up():
    made = table(
        ("world", 0, "", "alone"), ("train", 0, "world"), ("new", 5, "world"),
        ("more", 5, "world"), ("00", 1, "train", "chapter"),
    )  # fmt: skip
    assert order(made) == ["world", "train", "00", "new", "more"]
    assert made.minutes_left() == 6
    assert made.pick({"train"}, {"new"}).name == "world", "nothing to drain the machine for"


def test_minutes_left_follow_what_runs():
    made = table(("a", 6, ""), ("b", 2, ""), ("c", 5, "b"), ("d", 1, "a c"))
    assert made.minutes_left() == 8
    assert made.minutes_left(set(), {"a": 1, "b": 1}) == 7
    assert made.minutes_left({"b"}, {"a": 3.5, "c": 1.5}) == pytest.approx(4.5)
    assert made.minutes_left({"b"}, {"a": 30, "c": 1}) == 5, "over its estimate: about to end"
    assert made.minutes_left({"a", "b", "c"}, {"d": 0.25}) == 0.75
    assert made.minutes_left({"a", "b", "c", "d"}) == 0


def test_a_job_stands_behind_those_it_comes_after():
    for rows in ([("b", 1, "a"), ("a", 1, "")], [("b", 1, "gone")], [("b", 1, "b")]):
        with pytest.raises(ValueError, match=r"b comes after (a|gone|b), which is not before it"):
            table(*rows)


# ---- working it off


class Fake:
    """A task that ends after so many looks; tells who was at work beside it."""

    working: ClassVar[set[str]] = set()

    def __init__(self, name: str, looks: int):
        self.name, self.looks, self.killed = name, looks, False
        self.working.add(name)

    minutes = 0.5

    def ended(self) -> bool:
        self.looks -= 1
        if self.looks <= 0:
            self.working.discard(self.name)
        return self.looks <= 0

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0)
    monkeypatch.setattr(Fake, "working", set())


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_every_rule_holds_in_made_up_tables(quick, seed, places):
    draw = random.Random(seed)
    jobs = []
    for number in range(12):
        after = tuple(job.name for job in draw.sample(jobs, draw.randint(0, min(2, len(jobs)))))
        chapter = draw.random() < 0.3
        alone = not chapter and draw.random() < 0.2
        minutes = draw.choice([0, 1, 2, 5])
        jobs.append(Job(f"j{number}", "", minutes, after, alone, chapter))
    schedule, over, most = Schedule(jobs, places), [], 0

    def begin(job, left):
        nonlocal most
        assert {*job.after} <= {*over}
        assert left() >= 0
        if job.minutes == 0:
            over.append(job.name)
            return None
        others = [schedule.jobs[name] for name in Fake.working]
        assert not others or not job.alone
        assert not any(other.alone or (other.chapter and job.chapter) for other in others)
        most = max(most, len(others) + 1)
        return Fake(job.name, draw.randint(1, 4))

    work_off(schedule, begin, lambda job, task: over.append(job.name), lambda spent, left: None)
    assert sorted(over) == sorted(schedule.jobs), "each once"
    assert most <= places


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_whatever_stops_it_leaves_no_task_behind(quick, stop):
    schedule = table(("a", 1, ""), ("b", 1, ""), ("c", 1, "a"))
    tasks, told = {}, []

    def begin(job, left):
        tasks[job.name] = Fake(job.name, 2 if job.name == "a" else 99)
        return tasks[job.name]

    def show(spent, left):
        told.append((spent, left()))
        if "c" in spent:
            raise stop

    with pytest.raises(stop):
        work_off(schedule, begin, lambda job, task: None, show)
    assert {name: task.killed for name, task in tasks.items()} == {"a": False, "b": True, "c": True}
    assert told[0] == ({"a": 0.5, "b": 0.5}, 1.5)
