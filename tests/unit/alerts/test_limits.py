"""Few alerts go out one by one, many go out as digests, and none is left out."""
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.limits import Limiter, Limits


def deliver(limits: Limits, arrivals: list[tuple[float, str]], until: float) -> list[tuple[float, list[int]]]:
    """What is sent when, with a target that takes everything at once."""
    limiter, waiting, out, todo = Limiter(limits), {}, [], list(enumerate(arrivals))
    for step in range(int(until * 10)):
        now = 1000 + step / 10
        while todo and todo[0][1][0] <= now - 1000:
            number, (_, site) = todo.pop(0)
            waiting[number] = {"site": site}
        while (plan := limiter.plan(now, waiting)).send:
            limiter.sent(now, plan, [waiting.pop(number)["site"] for number in plan.send][0])
            out.append((now - 1000, plan.send))
        assert not waiting or plan.wait > 0
    return out


def test_few_come_one_by_one():
    assert [sent for _, sent in deliver(Limits(), [(1, "a"), (2, "a"), (2, "b")], 5)] == [[0], [1], [2]]


def test_many_of_one_site_become_a_digest_and_leave_the_other_alone():
    out = deliver(Limits(site=3, digest_seconds=20), [(second, "a") for second in range(10)] + [(9, "b")], 30)
    assert [sent for _, sent in out[:3]] == [[0], [1], [2]]
    assert (9.0, [10]) in out
    digests = [(at, sent) for at, sent in out if at > 2 and sent != [10]]
    assert [at for at, _ in digests] == [3.0, 23.0] and digests[1][1] == [4, 5, 6, 7, 8, 9]


def test_a_storm_of_all_sites_becomes_digests_over_all():
    storm = [(number / 10, f"s{number}") for number in range(300)]
    out = deliver(Limits(site=10, target=20, digest_seconds=5), storm, 40)
    assert [len(sent) for _, sent in out[:20]] == [1] * 20
    assert sum(len(sent) for _, sent in out) == 300
    assert all(later - before >= 4.9 for (before, _), (later, _) in zip(out[20:], out[21:], strict=False))


def test_what_has_piled_up_comes_together_at_once():
    """As after a failure of the mail server for an hour."""
    assert deliver(Limits(), [(0, f"s{number}") for number in range(400)], 5) == [(0.0, list(range(400)))]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abc")), max_size=60), st.integers(1, 5), st.integers(1, 8))
def test_nothing_is_left_out_and_nothing_is_late(arrivals, site, target):
    arrivals.sort()
    limits = Limits(site=site, target=target, minutes=1, digest_seconds=3)
    out = deliver(limits, arrivals, 30)
    when = {number: at for at, sent in out for number in sent}
    assert sorted(when) == list(range(len(arrivals)))
    # at most one digest per site every three seconds
    assert all(when[number] - at <= 3.2 for number, (at, _) in enumerate(arrivals))
