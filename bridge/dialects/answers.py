"""Whether a provider's answer shows a task or a trouble, and whose trouble it is.

The order: the preset's own word on the HTTP status; any other non-2xx is a trouble; then the codes and words
in the body. A code the preset names beats everything, a condition of the task that we understand beats a code
nobody named, and without either an error in the body is a trouble. A phrase the preset names is more telling
than the code beside it (MiniMax: 2013 "invalid params, invalid task_id" is a missing task).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.core.task import Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.paths import Field, Finder
from bridge.dialects.retry import RetryRules
from bridge.dialects.values import clean, object_from, word
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
# 409 on a call that only looks is a race on their side; 408 and 425 say "again" themselves.
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
_MEDIA = ("image/", "video/", "audio/", "application/octet-stream")  # an empty page with 200 is no result
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider says is wrong."""

    code: str | None
    message: str | None


NOTHING = ProviderError(None, None)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer that holds a document, and what was said around it.

    Args:
        verdict: The status the HTTP status or a code stands for, where the preset says so.
        complaint: The failing code and its sentence, kept for a task that failed.
        binary: The body is the result itself, not a document.
    """

    document: dict[str, object]
    raw: bytes | None
    verdict: Status | None
    complaint: ProviderError | None = None
    binary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """How one provider tells success from trouble.

    Args:
        code: Where codes stand that also say success; every place counts.
        success: The codes that do, spelled out.
        http_status: Where the body repeats an HTTP status.
        error_code: Where an error names itself; alone it means trouble when the body shows no task.
        classes: What a code means, folded.
        phrases: What a message means that contains these words, folded.
        http: What an HTTP status means here, before the usual reading.
        otherwise: What an error nobody named means.
        binary: Type of the result when the body is not JSON and its HTTP status is a task status.
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
    binary: str | None
    retry: RetryRules

    def open(self, answer: HttpResponse) -> ParsedAnswer:
        """The document an answer holds.

        Raises:
            UpstreamError: The answer is a trouble, or holds no document.
        """
        told = self.http.get(answer.status)
        if 200 <= answer.status < 300 and not isinstance(told, FailureKind):
            return self._document(answer, told)
        document = object_from(body_of(answer)) or {}
        complaint = self.complaint(document)
        verdict = self._named(complaint) or told or usual(answer.status, answer.headers)
        if isinstance(verdict, Status):
            return ParsedAnswer(document, body_of(answer) if document else None, verdict, complaint)
        raise self._error(verdict, complaint, answer, document)

    def judge(
        self, opened: ParsedAnswer, answer: HttpResponse, *, understood: bool, shown: bool = False
    ) -> ParsedAnswer:
        """The same, after a look into the body.

        Args:
            understood: The body shows a status we have a word for.
            shown: It shows a task, if with a word nobody mapped.

        Raises:
            UpstreamError: The body is a trouble.
        """
        failing, inner = self._failing(opened.document), self._inner(opened.document)
        understood = understood or opened.verdict is not None
        if failing is None and inner is None and (understood or shown):
            return opened
        complaint = self.complaint(opened.document)
        if complaint == NOTHING and inner is None:
            return opened
        verdict = self._class_of(complaint.code)
        if verdict is None and understood:
            return ParsedAnswer(opened.document, opened.raw, opened.verdict, complaint)
        verdict = self._phrase_of(complaint.message) or verdict
        verdict = verdict or (usual(inner, answer.headers) if inner else self.otherwise)
        if isinstance(verdict, Status):
            return ParsedAnswer(opened.document, opened.raw, verdict, complaint)
        raise self._error(verdict, complaint, answer, opened.document)

    def complaint(self, document: object) -> ProviderError:
        """What the body says is wrong, both parts None if it says nothing."""
        failing = self._failing(document)
        code = failing or self.error_code.read(document)
        message = self.error_message.read(document)
        if message is None and (failing or code or self._inner(document)):
            message = self.spoken(document)
        return ProviderError(code, message)

    def spoken(self, document: object) -> str | None:
        """The sentence beside the code, unless it only says `success`."""
        message = self.message.read(document)
        return None if message is None or fold(message) in self.silent else message

    def report(self, trouble: FailureKind, answer: HttpResponse, complaint: ProviderError) -> UpstreamError:
        """The error for a task whose own status word is a trouble: `not found`."""
        return self._error(trouble, complaint, answer, {})

    def _document(self, answer: HttpResponse, verdict: Status | None) -> ParsedAnswer:
        body = body_of(answer)
        document = object_from(body)
        if document is not None:
            return ParsedAnswer(document, body, verdict)
        media_type = answer.headers.get("content-type", "").strip().lower()
        if self.binary and verdict and body and media_type.startswith(_MEDIA):
            return ParsedAnswer({}, None, verdict, binary=True)
        kind = clean(answer.headers.get("content-type", "no content type"), 80)
        raise UnreadablePayload(
            f"not a JSON object: {len(body)} bytes, {kind}", provider_status=answer.status
        )

    def _failing(self, document: object) -> str | None:
        for find in self.code:
            code = spell(find(document))
            if code is not None and code not in self.success and fold(code) not in self.success:
                return word(code)
        return None

    def _inner(self, document: object) -> int | None:
        status = self.http_status.read(document)
        return status if status is not None and 400 <= status < 600 else None

    def _named(self, complaint: ProviderError) -> Outcome | None:
        return self._phrase_of(complaint.message) or self._class_of(complaint.code)

    def _class_of(self, code: str | None) -> Outcome | None:
        return self.classes.get(fold(code)) if code else None

    def _phrase_of(self, message: str | None) -> Outcome | None:
        if not message or not self.phrases:
            return None
        folded = fold(message)
        return next((verdict for phrase, verdict in self.phrases if phrase in folded), None)

    def _error(
        self, verdict: FailureKind, complaint: ProviderError, answer: HttpResponse, document: object
    ) -> UpstreamError:
        kind = _ERRORS[verdict]
        if 300 <= answer.status < 400:
            message = f"HTTP {answer.status}: redirects are not followed"
        else:
            message = complaint.message or complaint.code or f"the provider answered HTTP {answer.status}"
        code = fold(complaint.code) if complaint.code else None
        return kind(
            message,
            retry_after=self.retry.wait(answer.headers, document, code) if kind in _PATIENT else None,
            provider_status=answer.status,
            provider_code=complaint.code,
        )


_PATIENT = (UpstreamBusy, UpstreamUnavailable)


def usual(status: int, headers: Mapping[str, str]) -> FailureKind:
    """What a non-2xx HTTP status means with every provider that does not say otherwise."""
    if status == 503 and ("retry-after" in headers or "retry-after-ms" in headers):
        return FailureKind.BUSY
    trouble = _BY_HTTP.get(status)
    if trouble is None:
        trouble = FailureKind.REFUSED if 400 <= status < 500 else FailureKind.UNAVAILABLE
    return trouble


def body_of(answer: HttpResponse) -> bytes:
    """The body without the byte-order mark some providers send."""
    return answer.body[3:] if answer.body.startswith(_BOM) else answer.body
