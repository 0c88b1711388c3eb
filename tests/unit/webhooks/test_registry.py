"""The webhooks that operators add, change and end, over several bridges."""

from __future__ import annotations

import pytest

from bridge.core.details import TaskDetails
from bridge.core.task import TaskKey
from bridge.errors import Conflict, Forbidden, InvalidRequest, UnknownWebhook
from bridge.webhooks.attempts import MAX_KEPT_BODY, Attempt, AttemptResult, LoggedAttempt
from bridge.webhooks.document import DOCUMENT
from bridge.webhooks.endpoint import Disabled, EventType
from bridge.webhooks.stored import decode_stored
from tests.fakes.webhooks import RECEIVER, Delivering, endpoint, state

pytestmark = pytest.mark.anyio


async def test_an_endpoint_is_added_changed_and_ended_for_all_bridges() -> None:
    one = Delivering(endpoint())
    other = Delivering(endpoint(), clock=one.clock, journal=one.journal)
    added = await one.webhooks.create(RECEIVER, [EventType.STATUS], ["video"], ["night"])
    assert added.id.startswith("wh_")
    await other.webhooks.refresh()
    assert other.webhooks.get(added.id) == added
    await other.webhooks.set_enabled(added.id, enabled=False)
    await one.webhooks.refresh()
    assert one.webhooks.get(added.id).disabled is Disabled.OPERATOR
    await one.webhooks.set_enabled(added.id, enabled=True)
    assert one.webhooks.get(added.id) == added
    await one.webhooks.delete(added.id)
    await other.webhooks.refresh()
    with pytest.raises(UnknownWebhook):
        other.webhooks.get(added.id)
    assert [known.id for known in other.webhooks.endpoints()] == ["mine"]


async def test_an_engine_that_lost_the_webhooks_gets_them_from_a_bridge_that_has_them() -> None:
    one = Delivering()
    other = Delivering(clock=one.clock, journal=one.journal)
    kept, ended = [await one.webhooks.create(RECEIVER, [EventType.FINAL]) for _ in range(2)]
    await other.webhooks.refresh()
    await other.webhooks.delete(ended.id)
    await one.webhooks.refresh()
    empty = Delivering()  # the engine after its restart
    for bridge in (one, other):
        bridge.webhooks._document._ledger = empty.ledger
        await bridge.webhooks.refresh()
    await empty.webhooks.refresh()
    for bridge in (one, other, empty):
        await bridge.webhooks.refresh()
        assert [known.id for known in bridge.webhooks.endpoints()] == [kept.id]
    assert empty.webhooks.get(kept.id).secret == kept.secret
    await empty.webhooks.delete(kept.id)
    for bridge in (one, other):
        await bridge.webhooks.refresh()
        assert bridge.webhooks.endpoints() == []


async def test_a_secret_that_was_replaced_signs_for_a_day() -> None:
    use = Delivering()
    added = await use.webhooks.create(RECEIVER, [EventType.FINAL])
    rotated = await use.webhooks.rotate_secret(added.id)
    assert rotated.secret != added.secret
    await use.webhooks.test(added.id)
    assert use.sender.sent[-1].secrets == (rotated.secret, added.secret)
    use.clock.skip(86_401)
    await use.webhooks.test(added.id)
    assert use.sender.sent[-1].secrets == (rotated.secret,)


async def test_an_endpoint_of_the_configuration_is_changed_there_only() -> None:
    use = Delivering(endpoint())
    for change in (use.webhooks.delete("mine"), use.webhooks.rotate_secret("mine")):
        with pytest.raises(Conflict):
            await change
    assert (await use.webhooks.set_enabled("mine", enabled=False)).disabled is Disabled.OPERATOR
    moved = Delivering(endpoint(url="https://other.example/"), clock=use.clock, journal=use.journal)
    await moved.webhooks.refresh()
    assert moved.webhooks.get("mine").disabled is None


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://receiver.example/", Forbidden),
        ("https://10.0.0.1/", Forbidden),
        ("https://localhost/", Forbidden),
        ("ftp://receiver.example/", InvalidRequest),
        ("https://name:word@receiver.example/", InvalidRequest),
        ("", InvalidRequest),
    ],
)
async def test_no_endpoint_leads_inside(url: str, error: type[Exception]) -> None:
    use = Delivering(hosts=("*.example", "10.0.0.1", "localhost"))
    with pytest.raises(error):
        await use.webhooks.create(url, [EventType.FINAL])
    with pytest.raises(error):
        use.webhooks.submits.check(url)


async def test_a_submit_names_only_listed_hosts() -> None:
    use = Delivering(hosts=("hooks.example", "*.apps.example"))
    for allowed in ("https://hooks.example/a?b", "https://one.apps.example:8443/", "https://HOOKS.example/"):
        use.webhooks.submits.check(allowed)
    for refused in ("https://apps.example/", "https://hooks.example.org/", "https://xhooks.example/"):
        with pytest.raises(Forbidden):
            use.webhooks.submits.check(refused)
    with pytest.raises(Forbidden):
        Delivering().webhooks.submits.check("https://hooks.example/")


async def test_a_delivery_is_sent_again_by_hand_with_its_id_and_its_bytes() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 500
    async with use.running():
        await use.record(state())
        (first,) = await use.webhooks.deliveries("mine")
        assert (first.state, first.task, len(first.attempts)) == ("waiting", "video/one", 1)
        assert first.next_attempt_at == pytest.approx(use.clock.time() + 5, abs=1)
        use.sender.answer = lambda _: 204
        attempt = await use.webhooks.redeliver("mine", first.id)
    assert attempt.result is AttemptResult.DELIVERED
    assert use.sender.sent[0][3:] == use.sender.sent[1][3:]
    (delivery,) = await use.webhooks.deliveries("mine")
    assert (delivery.state, delivery.next_attempt_at, len(delivery.attempts)) == ("delivered", None, 2)
    with pytest.raises(UnknownWebhook):
        await use.webhooks.redeliver("mine", "msg_other")


async def test_a_large_body_is_not_kept_and_the_log_is_bounded() -> None:
    use = Delivering(endpoint())
    large = Attempt("msg_1", "task.final", 1.0, 500, 0.1, "no", AttemptResult.FAILED)
    use.log.add("mine", LoggedAttempt(large, "video/one", body=b"x" * (MAX_KEPT_BODY + 1)))
    with pytest.raises(Conflict):
        await use.webhooks.redeliver("mine", "msg_1")
    for number in range(300):
        use.log.add("mine", LoggedAttempt(large._replace(delivery=f"msg_{number}"), "video/one", body=b"{}"))
    await use.log.flush()
    assert len(await use.webhooks.deliveries("mine")) == 100


async def test_a_document_that_was_damaged_costs_only_what_makes_no_sense() -> None:
    use = Delivering(endpoint())
    added = await use.webhooks.create(RECEIVER, [EventType.FINAL])
    ((_, value),) = await use.ledger.get([DOCUMENT])
    assert value is not None
    for damaged in (b"", b"{", b"[]", b'{"endpoints":7,"health":[]}', value.replace(b"whsec_", b"whsec-")):
        assert not decode_stored(damaged).endpoints
    more = value.replace(b'"endpoints":[', b'"endpoints":[7,{"id":1},')
    assert list(decode_stored(more).endpoints) == [added.id]


async def test_the_ids_of_deliveries_are_the_same_in_every_bridge() -> None:
    ids = []
    for _ in range(2):
        use = Delivering(endpoint())
        async with use.running():
            await use.record(state(at=1_800_000_000.0 + len(ids)))
        ids.append(use.sender.sent[0].id)
    assert ids[0] == ids[1]
    other = Delivering(endpoint("other"))
    async with other.running():
        await other.record(state())
        await other.record(state(), TaskKey("video", "one", "account"))
        await other.record(state(), TaskKey("video", "two"), TaskDetails(tags=("x",)))
    assert len({*ids, *(one.id for one in other.sender.sent)}) == 4
