"""Classifies a provider's response: it shows a task, or it is one of five kinds of error.

Precedence: what the preset says about the HTTP status; any other non-2xx status is an error; then the codes
and words in the body. A code that the preset lists beats everything, a status word we know beats an unlisted
code, and without either an error in the body is an error of the call. A phrase that the preset lists says
more than the code beside it (MiniMax: 2013 "invalid params, invalid task_id" is a missing task).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bridge.core.task import Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.lenient import JsonText, read_json, write_json
from bridge.dialects.paths import Field, Finder
from bridge.dialects.retry import RetryRules
from bridge.dialects.values import clean, word
from bridge.dialects.words import FailureKind, Outcome, fold, spell
from bridge.errors import (
    CredentialRefused,
    TaskNotFound,
    UnreadablePayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)

_ERRORS: Mapping[FailureKind, type[UpstreamError]] = {
    FailureKind.NOT_FOUND: TaskNotFound,
    FailureKind.CREDENTIAL: CredentialRefused,
    FailureKind.BUSY: UpstreamBusy,
    FailureKind.REFUSED: UpstreamRefused,
    FailureKind.UNAVAILABLE: UpstreamUnavailable,
}
# 409 to a call that only reads is a race on the provider's side; 408 and 425 ask for another try themselves.
_BY_HTTP: Mapping[int, FailureKind] = {
    401: FailureKind.CREDENTIAL,
    402: FailureKind.CREDENTIAL,
    403: FailureKind.CREDENTIAL,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.UNAVAILABLE,
    409: FailureKind.UNAVAILABLE,
    410: FailureKind.NOT_FOUND,
    425: FailureKind.UNAVAILABLE,
    429: FailureKind.BUSY,
}
_WITH_RETRY_AFTER = (UpstreamBusy, UpstreamUnavailable)
_MEDIA = ("image/", "video/", "audio/", "application/octet-stream")  # an empty page with 200 is not a result
# Accepted, without a document: xAI (202) and workflow services (204) send these while a task runs.
_STILL_WORKING = frozenset({202, 204})
_MAX_LISTED = 10_000  # tasks of one list that are read; a million must not block the event loop

Document = dict[str, object]
Choose = Callable[[list[Document]], Document | None]
"""Which document of a list is meant; None where none is."""


@dataclass(frozen=True, slots=True)
class ProviderError:
    """An error as the provider words it."""

    code: str | None
    message: str | None


NO_ERROR = ProviderError(None, None)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A response that contains a document.

    Args:
        status: The task's status, where the HTTP status or a code says it.
        error: The failing code and its message, kept for a task that failed.
        binary: The body is the result itself, not a document.
        whole: All of the JSON where the document is one of a list.
        url: The address of the response, for relative links.
    """

    document: Document
    raw: bytes | None
    status: Status | None
    error: ProviderError | None = None
    binary: bool = False
    whole: object = None
    url: str = ""


def only_one(documents: list[Document]) -> Document | None:
    """The document of a list that has only one."""
    return documents[0] if len(documents) == 1 else None


def first(documents: list[Document]) -> Document:
    """The first document of a list, an empty one if there is none."""
    return documents[0] if documents else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """Distinguishes a task from an error response.

    Args:
        code: Where codes are that also report success; each place counts.
        success: The codes that mean success, spelled out.
        silent: Messages that say nothing, folded.
        http_status: Where the body repeats an HTTP status.
        error_code: Where an error's code is; alone it means an error when the body shows no task.
        classes: What a code means, folded.
        phrases: What a message means that contains these words, folded; the first match wins.
        http: What an HTTP status means here, before the usual reading.
        otherwise: What an unlisted error means.
        list_item: Where the task is in an answer that is a list, instead of by its id.
        binary: Type of the result when the body is not JSON and `http` has a task status for it.
    """

    code: tuple[Finder, ...]
    success: frozenset[str]
    message: Field[str]
    silent: frozenset[str]
    http_status: Field[int]
    error_code: Field[str]
    error_message: Field[str]
    classes: Mapping[str, Outcome]
    phrases: tuple[tuple[str, Outcome], ...]
    http: Mapping[int, Outcome]
    otherwise: Outcome
    list_item: Field[Document]
    binary: str | None
    retry: RetryRules

    def parse(self, answer: HttpResponse, choose: Choose = only_one) -> ParsedAnswer:
        """The document in a response, judged by its HTTP status alone where that is 2xx.

        Args:
            choose: Which document is meant where the response is a list.

        Raises:
            UpstreamError: The response is an error, or contains no document.
        """
        stated, text = self.http.get(answer.status), json_of(answer)
        if 200 <= answer.status < 300 and not isinstance(stated, FailureKind):
            return self._document(answer, text, stated, choose)
        document, raw = self.chosen(answer, text, first) if text is not None else ({}, None)
        error = self.provider_error(document)
        outcome = self._phrase_means(error.message) or self._code_means(error.code)
        outcome = outcome or stated or usual_meaning(answer.status, answer.headers)
        if isinstance(outcome, Status):
            return ParsedAnswer(document, raw if document else None, outcome, error, url=answer.url)
        raise self.error(outcome, error, answer, document)

    def classify(
        self, parsed: ParsedAnswer, answer: HttpResponse, *, understood: bool, shown: bool = False
    ) -> ParsedAnswer:
        """The same, with what its body says about errors.

        Args:
            understood: The body has a status word that we know.
            shown: The body shows a task, if with an unmapped word.

        Raises:
            UpstreamError: The body reports an error of the call.
        """
        failing, inner = self._failing_code(parsed.document), self._inner_status(parsed.document)
        understood = understood or parsed.status is not None
        if failing is None and inner is None and (understood or shown):
            return parsed
        error = self.provider_error(parsed.document)
        if error == NO_ERROR and inner is None:
            return parsed
        outcome = self._code_means(error.code)
        if outcome is None and understood:
            return replace(parsed, error=error)
        outcome = self._phrase_means(error.message) or outcome
        outcome = outcome or (usual_meaning(inner, answer.headers) if inner else self.otherwise)
        if isinstance(outcome, Status):
            return replace(parsed, status=outcome, error=error)
        raise self.error(outcome, error, answer, parsed.document)

    def provider_error(self, document: object) -> ProviderError:
        """The error that the body reports, `NO_ERROR` if none."""
        failing = self._failing_code(document)
        code = failing or self.error_code.read(document)
        message = self.error_message.read(document)
        if message is None and (failing or code or self._inner_status(document)):
            message = self.message_beside_code(document)
        return ProviderError(code, message)

    def message_beside_code(self, document: object) -> str | None:
        """The message beside the code, unless it only says `success`."""
        message = self.message.read(document)
        return None if message is None or fold(message) in self.silent else message

    def error(
        self, kind: FailureKind, error: ProviderError, answer: HttpResponse, document: object
    ) -> UpstreamError:
        """The exception for an error of this kind."""
        error_class = _ERRORS[kind]
        if 300 <= answer.status < 400:
            message = f"HTTP {answer.status}: redirects are not followed"
        else:
            message = error.message or error.code or f"the provider answered HTTP {answer.status}"
        retry_after = None
        if error_class in _WITH_RETRY_AFTER:
            code = fold(error.code) if error.code else None
            retry_after = self.retry.wait(answer.headers, document, code)
        failure = error_class(
            message, retry_after=retry_after, provider_status=answer.status, provider_code=error.code
        )
        if isinstance(failure, CredentialRefused):
            named = self._phrase_means(error.message) or self._code_means(error.code)
            failure.names_key = FailureKind.CREDENTIAL in (named, self.http.get(answer.status))
        return failure

    def is_success(self, code: str) -> bool:
        """Whether a spelled code reports success."""
        return code in self.success or fold(code) in self.success

    def chosen(self, answer: HttpResponse, text: JsonText, choose: Choose) -> tuple[Document, bytes]:
        """The document that is meant, and its own text.

        Raises:
            TaskNotFound: The text is a list in which no document is meant.
            UnreadablePayload: It is a list of something else.
        """
        if isinstance(text.document, dict):
            return text.document, text.raw
        listed = text.document if isinstance(text.document, list) else []
        document = self.list_item.read(listed)
        if document is None:
            documents = [item for item in listed[:_MAX_LISTED] if isinstance(item, dict)]
            document = choose(documents)
            if document is None and listed and not documents:
                raise _unreadable(answer)
        if document is None:
            message = "the task is not in the list that the upstream answered"
            raise TaskNotFound(message, provider_status=answer.status)
        # The other documents of a list may be tasks of other people.
        return document, text.raw if len(listed) == 1 else write_json(document)

    def _document(
        self, answer: HttpResponse, text: JsonText | None, status: Status | None, choose: Choose
    ) -> ParsedAnswer:
        if text is not None:
            document, raw = self.chosen(answer, text, choose)
            return ParsedAnswer(document, raw, status, whole=text.document, url=answer.url)
        body, content_type = answer.body, answer.headers.get("content-type", "no content type")
        if self.binary and status and body and content_type.strip().lower().startswith(_MEDIA):
            return ParsedAnswer({}, None, status, binary=True)
        if status is not None and answer.status != 200:
            return ParsedAnswer({}, None, status)  # the HTTP status says it all
        if answer.status in _STILL_WORKING and not body.strip():
            return ParsedAnswer({}, None, Status.PROCESSING)
        raise _unreadable(answer)

    def _failing_code(self, document: object) -> str | None:
        for find in self.code:
            code = spell(find(document))
            if code is not None and not self.is_success(code):
                return word(code)
        return None

    def _inner_status(self, document: object) -> int | None:
        status = self.http_status.read(document)
        return status if status is not None and 400 <= status < 600 else None

    def _code_means(self, code: str | None) -> Outcome | None:
        return self.classes.get(fold(code)) if code else None

    def _phrase_means(self, message: str | None) -> Outcome | None:
        if not message or not self.phrases:
            return None
        folded = fold(message)
        return next((outcome for phrase, outcome in self.phrases if phrase in folded), None)


def usual_meaning(status: int, headers: Mapping[str, str]) -> FailureKind:
    """What a non-2xx HTTP status means with every provider whose preset does not say otherwise."""
    if status == 503 and ("retry-after" in headers or "retry-after-ms" in headers):
        return FailureKind.BUSY
    unlisted = FailureKind.REFUSED if 400 <= status < 500 else FailureKind.UNAVAILABLE
    return _BY_HTTP.get(status, unlisted)


def _unreadable(answer: HttpResponse) -> UnreadablePayload:
    content_type = clean(answer.headers.get("content-type", "no content type"), 80)
    message = f"not a JSON object: {len(answer.body)} bytes, {content_type}"
    return UnreadablePayload(message, provider_status=answer.status)


def json_of(answer: HttpResponse) -> JsonText | None:
    """The JSON object or array in the body; None where it has none."""
    text = read_json(answer.body, answer.headers.get("content-type", ""))
    if text is not None and text.lenient and answer.on_lenient is not None:
        answer.on_lenient()
    return text
