"""The one dialect there is: a document's rules, applied to a provider's payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bridge.core.task import Failure, Observation, Status, check_task_id
from bridge.dialects.answers import NOTHING, ParsedAnswer, ProviderError
from bridge.dialects.base import (
    Callback,
    HttpResponse,
    PollAdvice,
    ProxyMatch,
    Request,
    StatusReading,
    Submission,
)
from bridge.dialects.calls import Call
from bridge.dialects.rules import Rules
from bridge.dialects.hosts import Hosts
from bridge.dialects.matching import Matcher
from bridge.dialects.outputs import complete, gather, is_fetchable
from bridge.dialects.signature import Signature
from bridge.dialects.templates import header_of
from bridge.dialects.words import FailureKind, Outcome
from bridge.errors import (
    InvalidRequest,
    TaskNotFound,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)


class Dialect:
    """A dialect stated in a TOML document. It holds no state: one serves every task of its upstreams."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self._rules = rules
        self._matcher = Matcher(
            rules.base_url,
            rules.calls,
            rules.ids,
            rules.submit,
            frames_are_documents=rules.stream.documents,
        )

    def __repr__(self) -> str:
        return f"<dialect {self.name}: {self.base_url}>"

    @property
    def base_url(self) -> str:
        """Where the provider lives, without a slash at the end."""
        return self._rules.base_url

    @property
    def title(self) -> str:
        """The provider's name, for people."""
        return self._rules.title or self.name

    @property
    def rules(self) -> Rules:
        """What the document states, compiled."""
        return self._rules

    @property
    def hosts(self) -> Hosts:
        """The hosts that may be called, and that may see the credential."""
        return self._rules.hosts

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
    def callback_signature(self) -> Signature | None:
        """How callbacks are signed; None where they are not."""
        return self._rules.signature

    @property
    def words(self) -> Mapping[str, Outcome]:
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
        return self._made(self._rules.calls["status"], self._rules.ids.values(task_id))

    def alias_request(self, alias: str) -> Request | None:
        """The call that finds a task by the client's own id."""
        call = self._rules.calls.get("alias")
        return self._made(call, {"alias": check_task_id(alias)}) if call else None

    def stream_request(self, task_id: str) -> Request | None:
        """The call that opens the provider's own event stream."""
        return self._about("stream", task_id)

    def cancel_request(self, task_id: str) -> Request | None:
        """The call that cancels a task."""
        return self._about("cancel", task_id)

    def submit_request(self, submission: Submission) -> Request | None:
        """The call that creates a task; the body goes as it is.

        Raises:
            InvalidRequest: An option is missing, malformed or unknown.
        """
        return self._rules.submit.request(submission)

    def client_id(self, submission: Submission) -> str | None:
        """The caller's own id in the body, by which `alias_request` finds the task."""
        return self._rules.submit.own_id(submission)

    def with_callback(self, submission: Submission, url: str) -> Submission:
        """The submission with a callback address, unless it has one or the provider takes none."""
        return self._rules.submit.with_callback(submission, url)

    def read_submitted(self, answer: HttpResponse, submission: Submission) -> Observation:
        """What the answer to a submit showed; `task_id` is the id the bridge uses.

        Raises:
            UpstreamError: What `read_status` raises, but never TaskNotFound: a create that is not found or
                in conflict is UpstreamRefused.
        """
        try:
            opened = self._rules.answers.open(answer)
            self._rules.state.prepare(opened.document)
            task_id = self._rules.submit.task_id.read(opened.document, submission.options)
            named = task_id is not None
            opened, status, said = self._condition(opened, answer, named=named, wordless=True)
        except (TaskNotFound, UpstreamUnavailable) as error:
            raise _refused_create(error) from error
        if task_id is None:
            raise _nameless(opened, answer)
        try:
            self._rules.ids.values(task_id)
        except InvalidRequest as error:
            raise UnreadablePayload(
                "the task id in the answer is not one that can be asked for", provider_status=answer.status
            ) from error
        status = status or (Status.QUEUED if said is None else Status.UNKNOWN)
        hint = self._rules.state.hint(answer.headers)
        seen = self._rules.state.observe(opened, status, said, answers=self._rules.answers, hint=hint)
        if said is None and seen.status is Status.COMPLETED and not seen.outputs:
            seen = replace(seen, status=Status.QUEUED)  # a bare 200 ends a look (Stability), never a create
        return replace(seen, task_id=task_id, alias=seen.alias or self.client_id(submission))

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> StatusReading:
        """What a status call showed; cancel and alias calls of the same shape read the same.

        Args:
            task_id: The id that was asked for; a follow-up call may need parts the answer does not repeat.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """
        state, answers = self._rules.state, self._rules.answers
        opened = answers.open(answer)
        state.prepare(opened.document)
        named = state.fields.task_id.read(opened.document) is not None
        opened, known, said = self._condition(opened, answer, named=named)
        status = known or Status.UNKNOWN
        observation = state.observe(opened, status, said, answers=answers, hint=state.hint(answer.headers))
        if (
            status is Status.UNKNOWN
            and said is None
            and observation.task_id is None
            and not observation.outputs
        ):
            raise UnreadablePayload("nothing in the answer tells of a task", provider_status=answer.status)
        return StatusReading(observation, self._follow(opened.document, observation, task_id))

    def read_follow_up(self, observation: Observation, answer: HttpResponse) -> Observation:
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
        if follow.optional and not added:
            return replace(observation, raw=opened.raw)
        if not any(is_fetchable(output) for output in added):
            raise UnreadablePayload(
                "no link in the answer to the follow-up call", provider_status=answer.status
            )
        return replace(observation, outputs=complete(observation.outputs, added))

    def match(self, method: str, path: str, query: str, body: bytes | None) -> ProxyMatch | None:
        """Which call a request is that came under the provider's own path; None when it is none.

        Raises:
            InvalidRequest: The path is a call's, but the query or the body is not.
        """
        return self._matcher.match(method, path, query, body)

    def documented(self, path: str) -> str:
        """The path of a request of this dialect with what the provider's own address has before it."""
        return self._matcher.documented(path)

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
        return self._made(call, self._rules.ids.values(task_id)) if call else None

    def _made(self, call: Call, values: Mapping[str, str]) -> Request:
        """The call, if it goes to one of the provider's own hosts.

        Raises:
            InvalidRequest: It does not, or a value cannot stand in it.
        """
        request = call.request(values)
        if request.base_url is not None and not self._rules.hosts.own(request.base_url):
            raise InvalidRequest("this id leads to a host that is not the provider's")
        return request

    def _condition(
        self, opened: ParsedAnswer, answer: HttpResponse, *, named: bool, wordless: bool = False
    ) -> tuple[ParsedAnswer, Status | None, str | None]:
        """The document after a look into it, the status it shows, None for none, and the provider's word.

        Args:
            named: It holds a task id.
            wordless: An id alone shows a task, without a status word.

        Raises:
            UpstreamError: The body is a trouble.
        """
        state, answers = self._rules.state, self._rules.answers
        said, meaning = state.status.read(opened.document)
        shown = named and (wordless or said is not None)
        opened = answers.judge(opened, answer, understood=meaning is not None, shown=shown)
        if isinstance(meaning, FailureKind) and opened.verdict is None:
            raise answers.report(meaning, answer, ProviderError(said, answers.spoken(opened.document)))
        own = meaning if isinstance(meaning, Status) else None
        if own is None and said is None:
            own = state.status.absent
        return opened, opened.verdict or own, said

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
            return self._made(self._rules.calls["follow_up"], {**parts, **found})
        except (InvalidRequest, KeyError):
            return None  # the provider named a file or a task no call can ask for


def _refused_create(error: UpstreamError) -> UpstreamError:
    """Where a look may hope, a create may not: its 404 is a wrong call, its 409 a standing contradiction."""
    if not isinstance(error, TaskNotFound) and error.provider_status != 409:
        return error
    return UpstreamRefused(
        str(error), provider_status=error.provider_status, provider_code=error.provider_code
    )


def _nameless(opened: ParsedAnswer, answer: HttpResponse) -> UpstreamError:
    """For an answer without an id: the provider says why, or we cannot read it."""
    said = opened.complaint or NOTHING
    if said == NOTHING:
        return UnreadablePayload("the answer names no task", provider_status=answer.status)
    return UpstreamRefused(
        said.message or said.code or "", provider_status=answer.status, provider_code=said.code
    )
