"""A dialect: makes the provider's requests and reads its responses, as its document says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from bridge.core.task import Failure, Observation, Status, check_id, check_url_part
from bridge.dialects.answers import NO_ERROR, Choose, Document, ParsedAnswer, ProviderError, first, only_one
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
from bridge.dialects.hosts import Hosts
from bridge.dialects.lenient import read_json, write_json
from bridge.dialects.links import LinkRewriter
from bridge.dialects.many import ManyCall
from bridge.dialects.matching import MAX_PATH, Matcher
from bridge.dialects.outputs import complete, gather, has_empty_link, is_fetchable, is_foreign
from bridge.dialects.proxied import ProxyRules
from bridge.dialects.retry import retry_after
from bridge.dialects.rules import Rules
from bridge.dialects.signature import Signature
from bridge.dialects.templates import header_of, percent
from bridge.dialects.words import FailureKind, Outcome
from bridge.errors import (
    InvalidRequest,
    ResultNotReady,
    TaskNotFound,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)

RESULT_GRACE_SECONDS = 60.0
MAX_OPTION = 256
_NO_OPTIONS: Mapping[str, str] = {}


class Dialect:
    """How one kind of provider speaks. It has no state: one instance serves all tasks of its upstreams."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self._rules = rules
        self._matcher = Matcher(
            rules.base_url,
            rules.calls,
            rules.ids,
            rules.submit,
            accepted=rules.accepted,
            serves_stream=rules.stream.documents or rules.proxy.events is not None,
        )

    def __repr__(self) -> str:
        return f"<dialect {self.name}: {self.base_url}>"

    @property
    def base_url(self) -> str:
        """The provider's address, without a slash at the end."""
        return self._rules.base_url

    @property
    def title(self) -> str:
        """The provider's name, for display."""
        return self._rules.title or self.name

    @property
    def cost_unit(self) -> str:
        """What costs are counted in, such as `credits`; empty where the document does not say."""
        return self._rules.cost_unit

    @property
    def rules(self) -> Rules:
        """The compiled document."""
        return self._rules

    @property
    def hosts(self) -> Hosts:
        """The hosts that may be called, and that may receive the credential."""
        return self._rules.hosts

    @property
    def poll(self) -> PollAdvice:
        """How often to poll."""
        return self._rules.poll

    @property
    def docs(self) -> tuple[str, ...]:
        """The pages of the provider's documentation."""
        return self._rules.docs

    @property
    def auth_hook(self) -> str | None:
        """Name of the code that makes the credential where no template can, such as a JWT."""
        return self._rules.auth_hook

    @property
    def proxy(self) -> ProxyRules:
        """How `/proxy` meets the provider's own clients."""
        return self._rules.proxy

    @property
    def callback_signature(self) -> Signature | None:
        """How callbacks are signed; None where they are not."""
        return self._rules.signature

    @property
    def words(self) -> Mapping[str, Outcome]:
        """Every status word the document maps, folded."""
        return self._rules.state.status.words.words

    @property
    def result_grace_seconds(self) -> float:
        """How long a result that the provider does not find is asked for."""
        follow = self._rules.follow_up
        return RESULT_GRACE_SECONDS if follow is None else follow.result_grace_seconds

    @property
    def needs_key(self) -> bool:
        """Whether requests carry a credential."""
        return bool(self._rules.auth_headers)

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """Headers that carry the credential.

        Raises:
            InvalidRequest: The key has characters that a header must not contain.
        """
        values = {"api_key": api_key}
        return {name: header_of(template, values) for name, template in self._rules.auth_headers}

    def kind_of(self, task_id: str) -> tuple[str | None, str | None]:
        """Model and action of a task as its id names them, where responses may not; else None."""
        return self._rules.ids.kind(task_id)

    def status_request(self, task_id: str, *, details: bool = False) -> Request:
        """The call that shows a task.

        Args:
            details: Ask also for what only some clients need.

        Raises:
            InvalidRequest: The id cannot be one of this provider's.
        """
        request = self._request(self._rules.calls["status"], self._rules.ids.values(task_id))
        return self.proxy.with_details(request) if details else request

    @property
    def max_status_ids(self) -> int:
        """Tasks that one call can show; 1 where the provider documents no call about many."""
        many = self._rules.status_many
        return 1 if many is None else many.max_ids

    @property
    def status_many(self) -> ManyCall | None:
        """The call about many tasks; None where the provider documents none."""
        return self._rules.status_many

    def read_status_many(self, answer: HttpResponse, task_ids: Sequence[str]) -> dict[str, bytes]:
        """The document of each asked task that the answer shows, in the form that `read_status` reads.

        Raises:
            UpstreamError: What `read_status` raises: the call failed as a whole.
        """
        many = self._rules.status_many
        return {} if many is None else many.read(answer, self._rules.answers, task_ids)

    def alias_request(self, alias: str) -> Request | None:
        """The call that finds a task by the client's own id; None where the provider has none."""
        call = self._rules.calls.get("alias")
        return self._request(call, {"alias": check_id(alias)}) if call else None

    def stream_request(self, task_id: str) -> Request | None:
        """The call that opens the provider's event stream; None where it has none."""
        return self._task_request("stream", task_id)

    def cancel_request(self, task_id: str) -> Request | None:
        """The call that cancels a task; None where the provider has none."""
        return self._task_request("cancel", task_id)

    def submit_request(self, submission: Submission) -> Request | None:
        """The call that creates a task, with the client's body unchanged; None where the provider has none.

        Raises:
            InvalidRequest: An option is missing, malformed or unknown.
        """
        return self._rules.submit.request(submission)

    def client_id(self, submission: Submission) -> str | None:
        """The client's own id in the body, by which `alias_request` finds the task."""
        return self._rules.submit.client_id_in(submission)

    def callback_in(self, submission: Submission) -> str | None:
        """The callback address that the client gave, None where there is none."""
        return self._rules.submit.callback_in(submission)

    def with_callback(self, submission: Submission, url: str, *, instead: bool = False) -> Submission:
        """The submission with a callback address, unless it has one or the provider takes none.

        Args:
            instead: Replace the one that it has.
        """
        return self._rules.submit.with_callback(submission, url, instead=instead)

    def takes_parameter(self, name: str) -> bool:
        """Whether the submit call has a parameter of that name beside the body."""
        return self._rules.submit.takes_parameter(name)

    def read_submitted(self, answer: HttpResponse, submission: Submission) -> Observation:
        """What the response to a submit shows; `task_id` is always set and is the id the bridge uses.

        Raises:
            UpstreamError: What `read_status` raises, but never TaskNotFound: a 404 or 409 to a create is
                UpstreamRefused.
        """
        rules = self._rules
        try:
            parsed = rules.answers.parse(answer, first)
            rules.state.unfold_strings(parsed.document)
            task_id = rules.submit.task_id.read(parsed.document, submission.options)
            has_id = task_id is not None
            parsed, status, status_word = self._status(parsed, answer, has_id=has_id, id_suffices=True)
        except (TaskNotFound, UpstreamUnavailable) as error:
            # Repeating a poll is harmless, repeating a create is not: its 404 is a wrong call, and its 409 a
            # conflict that a retry does not resolve.
            if not isinstance(error, TaskNotFound) and error.provider_status != 409:
                raise
            raise UpstreamRefused(
                str(error), provider_status=error.provider_status, provider_code=error.provider_code
            ) from error
        if task_id is None:
            raise _no_task_id(parsed, answer)
        try:
            task_id = rules.ids.values(task_id)["task_id"]
        except InvalidRequest as error:
            raise UnreadablePayload(
                "the task id in the response is not one of this upstream's", provider_status=answer.status
            ) from error
        status = status or (Status.QUEUED if status_word is None else Status.UNKNOWN)
        hint = rules.state.hint(answer.headers)
        observation = rules.state.observe(parsed, status, status_word, answers=rules.answers, hint=hint)
        if status_word is None and observation.status is Status.COMPLETED and not observation.outputs:
            # Where a bare 200 to a status call means the end (Stability), to a create it does not.
            observation = replace(observation, status=Status.QUEUED)
        alias = observation.alias or self.client_id(submission)
        return replace(observation, task_id=task_id, alias=alias)

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> StatusReading:
        """What the response to a status call shows; responses to cancel and alias calls have the same shape.

        Args:
            task_id: The id that was asked for; a follow-up call may need parts that the response does not
                repeat.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """
        state, answers = self._rules.state, self._rules.answers
        parsed = answers.parse(answer, self.task_among(task_id))
        state.unfold_strings(parsed.document)
        has_id = state.fields.task_id.read(parsed.document) is not None
        parsed, known, status_word = self._status(parsed, answer, has_id=has_id)
        status = known or Status.UNKNOWN
        hint = state.hint(answer.headers)
        observation = state.observe(parsed, status, status_word, answers=answers, hint=hint)
        if (
            status is Status.UNKNOWN
            and status_word is None
            and observation.task_id is None
            and not observation.outputs
        ):
            raise UnreadablePayload("the response shows no task", provider_status=answer.status)
        return StatusReading(observation, self._follow_up_request(parsed.document, observation, task_id))

    def read_follow_up(self, observation: Observation, answer: HttpResponse) -> Observation:
        """The observation with what the follow-up call added.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload; ResultNotReady where the result is not ready yet.
        """
        follow = self._rules.follow_up
        if follow is None:
            return observation
        parsed = follow.answers.parse(answer, first)
        raw = write_json(parsed.whole) if isinstance(parsed.whole, list) else parsed.raw
        observation = replace(observation, result=raw, result_status=answer.status)
        self._rules.state.unfold_strings(parsed.document)
        # A list is one result of many parts, or the usual document in a list of one.
        outputs = gather(follow.outputs, parsed.whole or parsed.document, answer.url)
        outputs = outputs or gather(follow.outputs, parsed.document, answer.url)
        parsed = follow.answers.classify(parsed, answer, understood=bool(outputs))
        if parsed.status in (Status.FAILED, Status.CANCELLED):
            reported = parsed.error or NO_ERROR
            failure = None if reported == NO_ERROR else Failure(reported.code, reported.message)
            return replace(observation, status=parsed.status, error=failure)
        if not outputs and self._is_open(parsed):
            message = (parsed.error and parsed.error.message) or "the result is not ready yet"
            raise ResultNotReady(
                message, retry_after=retry_after(answer.headers), provider_status=answer.status
            )
        empty = not outputs and has_empty_link(follow.outputs, parsed.document)
        if follow.optional and not outputs and not empty:
            return observation
        if not any(is_fetchable(output) or is_foreign(output) for output in outputs):
            raise UnreadablePayload(
                "no link in the response to the follow-up call", provider_status=answer.status
            )
        outputs = complete(observation.outputs, outputs)
        return replace(observation, outputs=outputs, result_unavailable=any(map(is_foreign, outputs)))

    def check_result(self, answer: HttpResponse) -> None:
        """Whether a call for the result succeeded.

        Raises:
            UpstreamError: It did not.
        """
        follow = self._rules.follow_up
        if follow is not None:
            follow.answers.classify(follow.answers.parse(answer, first), answer, understood=True)

    def result_request(self, task_id: str | None, needed: Mapping[str, str]) -> Request:
        """The call for the result.

        Args:
            needed: Its values besides the task's id.

        Raises:
            InvalidRequest: A value is missing or not allowed.
        """
        parts = self._rules.ids.values(task_id) if task_id is not None else {}
        call, values = self._rules.calls.get("follow_up"), {**parts, **needed}
        if call is None or not call.names <= values.keys():
            raise InvalidRequest("the result call needs another value")
        return self._request(call, values)

    def file_request(
        self, task_id: str | None, file_id: str | None = None, options: Mapping[str, str] = _NO_OPTIONS
    ) -> Request | None:
        """The call that downloads the file of a result; None where the provider has none.

        Args:
            task_id: None where the file's id says enough.
            file_id: The provider's id of the file, where there is one.
            options: Query parameters of the client's request.

        Raises:
            InvalidRequest: An id or an option is not allowed.
        """
        call = self._rules.calls.get("file")
        values = self._rules.ids.values(task_id) if task_id is not None else {}
        if file_id is not None:
            values["file_id"] = check_url_part(file_id)
        if call is None or not call.names <= values.keys():
            return None
        request = self._request(call, values)
        for name, value in options.items():
            pattern = self._rules.file_options.get(name)
            if pattern is None or not pattern.fullmatch(value[:MAX_OPTION]):
                raise InvalidRequest(
                    f"{name[:80]!r} is not a parameter of this download, or has a wrong value"
                )
            mark = "&" if "?" in request.path else "?"
            request = replace(request, path=f"{request.path}{mark}{percent(name)}={percent(value)}")
        return request

    @property
    def file_options(self) -> Collection[str]:
        """The query parameters that a client may add to the download."""
        return self._rules.file_options.keys()

    def file_needs_key(self, path: str) -> bool:
        """Whether links with this path, still encoded, need the API key at the provider's own hosts."""
        return any(pattern.fullmatch(path[:MAX_PATH]) for pattern in self._rules.key_paths)

    def result_name(self, document: bytes) -> str | None:
        """What a result call names instead of the task (a file id), in the document of a status call."""
        follow = self._rules.follow_up
        text = read_json(document) if follow is not None and follow.needs else None
        if follow is None or text is None or not isinstance(text.document, dict):
            return None
        self._rules.state.unfold_strings(text.document)
        values = {name: field.read(text.document) for name, field in follow.needs.items()}
        return self.name_of({name: value for name, value in values.items() if value is not None})

    def name_of(self, values: Mapping[str, str]) -> str | None:
        """The same, from the values of a result call; None where one is missing."""
        follow = self._rules.follow_up
        if follow is None or not follow.needs or not follow.needs.keys() <= values.keys():
            return None
        return "\n".join(values[name] for name in sorted(follow.needs))

    def task_among(self, task_id: str | None) -> Choose:
        """Which document of a list shows a task: the one with its id or, in a list of one, that."""
        if task_id is None:
            return only_one
        try:
            ids = {task_id, *self._rules.ids.values(task_id).values()}
        except InvalidRequest:
            ids = {task_id}
        ids.add(unquote(task_id).rpartition("/")[2])
        read = self._rules.state.fields.task_id.read

        def choose(documents: list[Document]) -> Document | None:
            named = ((document, read(document) or "") for document in documents)
            matching = (one for one, name in named if name in ids or unquote(name).rpartition("/")[2] in ids)
            return next(matching, None) or only_one(documents)

        return choose

    def match(self, method: str, path: str, query: str, body: bytes | None) -> ProxyMatch | None:
        """Which call a request under the provider's own path makes; None when it is not one of its calls.

        Args:
            path: What follows the provider's host, still encoded.
            query: What follows the question mark, still encoded.

        Raises:
            InvalidRequest: The path is a call's, but the query or the body is not.
        """
        return self._matcher.match(method, path, query, body)

    def documented(self, path: str) -> str:
        """The path of a request with the path of the provider's base URL before it."""
        return self._matcher.documented(path)

    def probable_path(self, method: str, path: str, query: str, body: bytes | None) -> str | None:
        """The path that a request which makes no call of the provider probably means."""
        return self._matcher.probable_path(method, path, query, body)

    def passed_request(self, method: str, path: str) -> Request | None:
        """The call about no task that a request makes and that is passed on; None for any other."""
        if not self.proxy.passes(method, path):
            return None
        base = urlsplit(self.base_url).path.rstrip("/")
        return Request(method=method, path=path.removeprefix(base)) if path.startswith(f"{base}/") else None

    def answer_headers(self, task_id: str) -> dict[str, str]:
        """Headers that the provider's clients read in answers about a task."""
        return self.proxy.headers(self._rules.ids, task_id)

    def link_rewriter(self, called: str, prefix: str, secret_prefix: str = "") -> LinkRewriter:
        """Makes the provider's links to its own API lead to the bridge.

        Args:
            called: The base URL that is called.
            prefix: URL of the bridge under which it serves the calls of this provider.
            secret_prefix: Beginning of the bridge's own callback addresses, which are left out.
        """
        return LinkRewriter(
            self.base_url,
            called,
            self.hosts,
            self._matcher.path_of_link,
            prefix=prefix,
            secret_prefix=secret_prefix,
        )

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        """What one server-sent event shows; None for heartbeats and for what is not about the task.

        Raises:
            UpstreamUnavailable: The stream itself reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """
        return self._rules.stream.read(name, data, self._rules.state, self._rules.answers)

    def read_callback(self, body: bytes) -> Callback:
        """What to do about a callback. Never raises: anyone can post anything."""
        return self._rules.callback.read(body)

    def _is_open(self, parsed: ParsedAnswer) -> bool:
        """Whether the answer says that the task is still running."""
        _, shown = self._rules.state.status.read(parsed.document)
        status = parsed.status or shown
        return isinstance(status, Status) and not status.final

    def _task_request(self, name: str, task_id: str) -> Request | None:
        call = self._rules.calls.get(name)
        return self._request(call, self._rules.ids.values(task_id)) if call else None

    def _request(self, call: Call, values: Mapping[str, str]) -> Request:
        request = call.request(values)
        # A part of the id may choose the host; only the provider's own may be called and get the credential.
        if request.base_url is not None and not self._rules.hosts.own(request.base_url):
            raise InvalidRequest("this id leads to a host that is not the provider's")
        return request

    def _status(
        self, parsed: ParsedAnswer, answer: HttpResponse, *, has_id: bool, id_suffices: bool = False
    ) -> tuple[ParsedAnswer, Status | None, str | None]:
        """The document once its body is classified, the status it shows, None for none, and the provider's
        word.

        Args:
            has_id: It contains a task id.
            id_suffices: An id alone shows a task, without a status word.

        Raises:
            UpstreamError: The body reports an error of the call.
        """
        state, answers = self._rules.state, self._rules.answers
        status_word, outcome = state.status.read(parsed.document)
        shown = has_id and (id_suffices or status_word is not None)
        parsed = answers.classify(parsed, answer, understood=outcome is not None, shown=shown)
        if isinstance(outcome, FailureKind) and parsed.status is None:
            # The task's own status word is an error of the call: `not found`.
            reported = ProviderError(status_word, answers.message_beside_code(parsed.document))
            raise answers.error(outcome, reported, answer, {})
        own = outcome if isinstance(outcome, Status) else None
        if own is None and status_word is None:
            own = state.status.absent
        return parsed, parsed.status or own, status_word

    def _follow_up_request(
        self, document: object, observation: Observation, task_id: str | None
    ) -> Request | None:
        follow = self._rules.follow_up
        if follow is None or observation.status not in follow.on:
            return None
        if any(is_fetchable(output) for output in observation.outputs):
            return None
        needed: dict[str, str] = {}
        for name, field in follow.needs.items():
            value = field.read(document)
            if value is None:
                return None
            needed[name] = value
        whole_id = task_id or observation.task_id
        try:
            parts = self._rules.ids.values(whole_id) if whole_id else {}
            return self._request(self._rules.calls["follow_up"], {**parts, **needed})
        except (InvalidRequest, KeyError):
            return None  # the provider named a file or a task that no call can ask for


def _no_task_id(parsed: ParsedAnswer, answer: HttpResponse) -> UpstreamError:
    reported = parsed.error or NO_ERROR
    if reported == NO_ERROR:
        return UnreadablePayload("the response has no task id", provider_status=answer.status)
    return UpstreamRefused(
        reported.message or reported.code or "", provider_status=answer.status, provider_code=reported.code
    )
