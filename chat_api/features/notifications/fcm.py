"""Firebase Cloud Messaging as its senders see it: one message for one device, over HTTP v1."""

import asyncio
import concurrent.futures
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from google.auth import transport
from google.auth.credentials import TokenState
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.oauth2.service_account import Credentials
from yarl import URL

from chat_api.features.notifications.service import Push
from chat_api.kernel.clock import Clock

__all__ = [
    "DeadToken",
    "FcmClient",
    "NotAllowed",
    "Rejected",
    "ServiceAccount",
    "Unavailable",
]

_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_MAX_QUOTED = 200  # characters of an answer in a reason

# Google's wish for a sender that it tells to slow down without saying for how long, in seconds.
_WAIT_WHEN_TOO_FAST = 60.0


T = TypeVar("T")


class DeadToken(Exception):
    """No device will ever be reached by this token again."""


class Rejected(Exception):
    """Google will never deliver this message to this device; others may be fine."""


class NotAllowed(Exception):
    """Google lets the service account send nothing; somebody has to put that right."""


class Unavailable(Exception):
    """Google did not take it now and may later; `retry_after` is its own wish, in seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _KeyFile(msgspec.Struct, frozen=True):
    """What a service account's key file must have; Google's library wants the whole."""

    type: Literal["service_account"]
    project_id: str
    client_email: str
    private_key: str
    token_uri: str


class ServiceAccount:
    """An account of a Firebase project, with the key to ask for access tokens."""

    def __init__(self, project_id: str, credentials: Credentials) -> None:
        self.project_id = project_id
        self.credentials: Any = credentials  # its methods have no types

    def __repr__(self) -> str:
        return f"<ServiceAccount of {self.project_id}>"

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """
        Read the JSON file that Google's console hands out as a service account's private key.

        Raises:
            ValueError: It can't be read or is something else. The text is the end of a sentence
                that begins with the setting's name, and quotes nothing secret.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"names {path}: {error.strerror or error}") from None
        try:
            known = msgspec.json.decode(content, type=_KeyFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"names {path}, which is no service account's key ({error}): make one in the "
                "Firebase console, under Project settings, Service accounts"
            ) from None
        try:
            credentials: Any = Credentials
            account = credentials.from_service_account_info(
                msgspec.json.decode(content), scopes=[_SCOPE]
            )
        except (ValueError, TypeError, GoogleAuthError):
            raise ValueError(f"names {path}, whose private_key can't be read") from None
        return cls(known.project_id, account)


class FcmClient:
    """
    Sends over kept-alive connections. An async context manager; usable only inside it.

    `url` is where the API is, without a path. A request that takes longer than `timeout` seconds
    counts as `Unavailable`, although Google may have acted on it.
    """

    def __init__(
        self, account: ServiceAccount, url: str, clock: Clock, *, timeout: float = 10.0
    ) -> None:
        self._account = account
        project = quote(account.project_id, safe=":")
        self._url = URL(f"{url}/v1/projects/{project}/messages:send", encoded=True)
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._access = _Access(account)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._access.session = self._session
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, token: str, push: Push) -> None:
        """
        Have one device notified. Returns when Google has taken it over.

        Raises:
            DeadToken: The token is nobody's any more, or never was one.
            Rejected: This message won't do, or not for this device.
            NotAllowed: The service account may not send.
            Unavailable: Google did not take it now, or there is no telling.
        """
        message = msgspec.json.encode({"message": _message(token, push)})
        access_token = await self._access.token()
        answer = await self._post(access_token, message)
        if answer.status == 401 and answer.code != "THIRD_PARTY_AUTH_ERROR":
            access_token = await self._access.token(refused=access_token)
            answer = await self._post(access_token, message)
        if failure := _failure(answer):
            raise failure

    async def _post(self, access_token: str, message: bytes) -> "_Answer":
        assert self._session is not None, "enter the client first"
        try:
            async with self._session.post(
                self._url,
                data=message,
                headers={
                    "Authorization": f"Bearer {access_token}",
                    "Content-Type": "application/json; charset=UTF-8",
                },
                allow_redirects=False,
            ) as response:
                wish = _seconds(response.headers.get("Retry-After", ""), self._clock())
                return _Answer(response.status, await response.read(), wish)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(_reason(error)) from error


class _Violation(msgspec.Struct):
    field: str = ""


class _Detail(msgspec.Struct):
    code: str = msgspec.field(default="", name="errorCode")
    violations: list[_Violation] = msgspec.field(default_factory=list, name="fieldViolations")


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[_Detail] = []


class _ErrorBody(msgspec.Struct):
    error: _Error


class _Answer:
    """An answer; of an error also what Google says beside the status, where it is Google's."""

    def __init__(self, status: int, body: bytes, retry_after: float) -> None:
        self.status = status
        self.retry_after = retry_after
        self._error = _decoded(body, _ErrorBody)
        self._body = body

    @property
    def is_googles(self) -> bool:
        """Tell whether the error is in Google's form, and not the page of something in between."""
        return self._error is not None

    @property
    def code(self) -> str:
        """Return FCM's own error code, such as UNREGISTERED; empty where there is none."""
        details = self._error.error.details if self._error is not None else []
        return next((detail.code for detail in details if detail.code), "")

    @property
    def is_about_the_token(self) -> bool:
        """Tell whether what is wrong in the request is the device's token."""
        if self._error is None:
            return False
        error = self._error.error
        fields = [violation.field for detail in error.details for violation in detail.violations]
        if fields:
            return fields == ["message.token"]
        return self.code == "INVALID_ARGUMENT" and "registration token" in error.message.lower()

    def __str__(self) -> str:
        if self._error is None:
            words = self._body.decode(errors="replace")
        else:
            error = self._error.error
            words = f"{self.code or error.status} {error.message}"
        return f"it answered {self.status} {' '.join(words.split())[:_MAX_QUOTED]}".rstrip()


def _failure(answer: _Answer) -> Exception | None:
    """
    Return what the answer means, None for success.

    By https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode; that a 404 must be in
    Google's form is our own care: a wrong address must not cost all devices.
    """
    match answer.status:
        case status if 200 <= status < 300:
            return None
        case 404 if answer.is_googles:
            return DeadToken(str(answer))
        case 400 if answer.is_about_the_token:
            return DeadToken(str(answer))
        case 400 | 413 if answer.is_googles:
            return Rejected(str(answer))
        # The app belongs to another project, or the project has no valid key for Apple's service.
        case 401 | 403 if answer.code in ("SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"):
            return Rejected(str(answer))
        case 429:
            return Unavailable(str(answer), answer.retry_after or _WAIT_WHEN_TOO_FAST)
        case status if status in (400, 401, 403, 404, 405, 413):
            return NotAllowed(str(answer))
        case _:
            return Unavailable(str(answer), answer.retry_after)


def _message(token: str, push: Push) -> Mapping[str, Any]:
    return {
        "token": token,
        "notification": {"title": push.title, "body": push.body},
        "data": dict(push.data),
        "android": {"priority": "high"},
        "apns": {"payload": {"aps": {"sound": "default", "badge": 1}}},
    }


class _Access:
    """The access token of a service account, fetched when needed and kept while it is good."""

    def __init__(self, account: ServiceAccount) -> None:
        self._credentials = account.credentials
        self._lock = asyncio.Lock()
        self.session: aiohttp.ClientSession | None = None

    async def token(self, *, refused: str | None = None) -> str:
        """
        Return an access token, and not the `refused` one.

        Raises:
            NotAllowed: Google gives none for this key.
            Unavailable: Google does not answer now.
        """
        credentials = self._credentials
        async with self._lock:
            if credentials.token_state is not TokenState.FRESH or credentials.token == refused:
                assert self.session is not None, "enter the client first"
                request = _Request(self.session, asyncio.get_running_loop())
                try:
                    # Signing takes milliseconds, and Google's library waits by blocking.
                    await asyncio.to_thread(credentials.refresh, request)
                except GoogleAuthError as error:
                    reason = f"no access token: {error.args[0] if error.args else error}"
                    is_final = isinstance(error, RefreshError) and not error.retryable
                    kind = NotAllowed if is_final else Unavailable
                    raise kind(reason[:_MAX_QUOTED]) from error
                except (TypeError, ValueError) as error:
                    raise Unavailable("no access token: the answer is unreadable") from error
            token: str = credentials.token
            return token


class _TokenAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    data: bytes


class _Request(transport.Request):
    """Lets Google's library, in a thread of its own, ask by the event loop's HTTP client."""

    def __init__(self, session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _TokenAnswer:
        """Return the answer; raises `TransportError` without one. The session has a timeout."""
        asking = self._ask(url, method, body, headers)
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result()
        except (
            aiohttp.ClientError,
            OSError,
            concurrent.futures.CancelledError,
            RuntimeError,  # the session or the loop was closed meanwhile
        ) as error:
            asking.close()
            raise TransportError(_reason(error)) from error  # type: ignore[no-untyped-call]

    async def _ask(
        self, url: str, method: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> _TokenAnswer:
        async with self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False
        ) as response:
            return _TokenAnswer(response.status, response.headers, await response.read())


def _decoded(body: bytes, wanted: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _seconds(wish: str, now: datetime) -> float:
    """Read a Retry-After header, which is a number of seconds or a date; 0 if it is neither."""
    if wish.isascii() and wish.isdigit():
        return float(wish)
    try:
        moment = parsedate_to_datetime(wish)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"nothing answers at {error.host} ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__
