"""The one dialect there is: a document's rules, applied to a provider's payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bridge.core.task import Failure, Observation, Status, check_task_id
from bridge.dialects.answers import NOTHING, Complaint
from bridge.dialects.base import Answer, Callback, Look, PollAdvice, Request
from bridge.dialects.compile import Rules
from bridge.dialects.outputs import complete, gather, is_fetchable
from bridge.dialects.templates import header_of
from bridge.dialects.words import Trouble, Verdict
from bridge.errors import InvalidRequest, UnreadablePayload


class MappedDialect:
    """A dialect stated in a TOML document. It holds no state: one serves every task of its upstreams."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self._rules = rules

    def __repr__(self) -> str:
        return f"<dialect {self.name}: {self.base_url}>"

    @property
    def base_url(self) -> str:
        """Where the provider lives, without a slash at the end."""
        return self._rules.base_url

    @property
    def poll(self) -> PollAdvice:
        """How often to ask."""
        return self._rules.poll

    @property
    def docs(self) -> tuple[str, ...]:
        """Where the provider documents all this."""
        return self._rules.docs

    @property
    def auth_hook(self) -> str | None:
        """Name of the code that makes the credential where no template can, such as a JWT per call."""
        return self._rules.auth_hook

    @property
    def words(self) -> Mapping[str, Verdict]:
        """Every status word the document maps, folded."""
        return self._rules.state.status.words.words

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """Headers that carry the credential.

        Raises:
            InvalidRequest: The key has characters no header may carry.
        """
        values = {"api_key": api_key}
        return {name: header_of(template, values) for name, template in self._rules.auth_headers}

    def status_request(self, task_id: str) -> Request:
        """The call that shows a task.

        Raises:
            InvalidRequest: The id cannot be one of this provider's.
        """
        return self._rules.calls["status"].request(self._rules.ids.values(task_id))

    def alias_request(self, alias: str) -> Request | None:
        """The call that finds a task by the client's own id."""
        call = self._rules.calls.get("alias")
        return call.request({"alias": check_task_id(alias)}) if call else None

    def stream_request(self, task_id: str) -> Request | None:
        """The call that opens the provider's own event stream."""
        return self._about("stream", task_id)

    def cancel_request(self, task_id: str) -> Request | None:
        """The call that cancels a task."""
        return self._about("cancel", task_id)

    def submit_request(self, body: bytes) -> Request | None:
        """The call that creates a task; the body goes as it is."""
        call = self._rules.calls.get("submit")
        return call.request({}, body) if call else None

    def read_status(self, answer: Answer, task_id: str | None = None) -> Look:
        """What a status call showed; submit, cancel and alias calls of the same shape read the same.

        Args:
            task_id: The id that was asked for; a follow-up call may need parts the answer does not repeat.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """
        state, answers = self._rules.state, self._rules.answers
        opened = answers.open(answer)
        state.prepare(opened.document)
        said, meaning = state.status.read(opened.document)
        shown = said is not None and state.fields.task_id.read(opened.document) is not None
        opened = answers.judge(opened, answer, understood=meaning is not None, shown=shown)
        if isinstance(meaning, Trouble) and opened.verdict is None:
            raise answers.report(meaning, answer, Complaint(said, answers.spoken(opened.document)))
        own = meaning if isinstance(meaning, Status) else None
        if own is None and said is None:
            own = state.status.absent
        status = opened.verdict or own or Status.UNKNOWN
        observation = state.observe(opened, status, said, answers=answers, hint=state.hint(answer.headers))
        if (
            status is Status.UNKNOWN
            and said is None
            and observation.task_id is None
            and not observation.outputs
        ):
            raise UnreadablePayload("nothing in the answer tells of a task", provider_status=answer.status)
        return Look(observation, self._follow(opened.document, observation, task_id))

    def read_follow_up(self, observation: Observation, answer: Answer) -> Observation:
        """The observation with what the follow-up call added.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """
        follow = self._rules.follow_up
        if follow is None:
            return observation
        opened = follow.answers.open(answer)
        self._rules.state.prepare(opened.document)
        added = gather(follow.outputs, opened.document)
        opened = follow.answers.judge(opened, answer, understood=bool(added))
        if opened.verdict in (Status.FAILED, Status.CANCELLED):
            said = opened.complaint or NOTHING
            error = Failure(said.code, said.message) if said.code or said.message else None
            return replace(observation, status=opened.verdict, error=error)
        if not any(is_fetchable(output) for output in added):
            raise UnreadablePayload(
                "no link in the answer to the follow-up call", provider_status=answer.status
            )
        return replace(observation, outputs=complete(observation.outputs, added))

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        """What one server-sent event showed; None for heartbeats and for whatever is not about the task.

        Raises:
            UpstreamUnavailable: The stream itself reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """
        return self._rules.stream.read(name, data, self._rules.state, self._rules.answers)

    def read_callback(self, body: bytes) -> Callback:
        """What a callback asks of us. Never raises: anybody can post anything."""
        return self._rules.callback.read(body)

    def _about(self, name: str, task_id: str) -> Request | None:
        call = self._rules.calls.get(name)
        return call.request(self._rules.ids.values(task_id)) if call else None

    def _follow(self, document: object, observation: Observation, task_id: str | None) -> Request | None:
        follow = self._rules.follow_up
        if follow is None or observation.status not in follow.on:
            return None
        if any(is_fetchable(output) for output in observation.outputs):
            return None
        values = {name: field.read(document) for name, field in follow.needs.items()}
        found = {name: value for name, value in values.items() if value is not None}
        if len(found) < len(values):
            return None
        about = task_id or observation.task_id
        try:
            parts = self._rules.ids.values(about) if about else {}
            return self._rules.calls["follow_up"].request({**parts, **found})
        except (InvalidRequest, KeyError):
            return None  # the provider named a file or a task no call can ask for
