"""Calls to Rainbow: `Rainbow` blocks, `AsyncRainbow` is awaited. Both have the same methods."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from . import calls
from .calls import Call, Credentials, Data
from .errors import CallRefused, RainbowError, Unreachable
from .results import ChannelResult, SendResult, SessionResult
from .signing import WebhookKey

T = TypeVar("T")


class _Base:
    """What both clients share: where the server is, how calls are signed, and when a call is repeated."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        webhook_secret: str | None = None,
        timeout: float = 5,
        retry_for: float = 30,
    ) -> None:
        """`url`: where Rainbow (its `admin_listen`, if it has one) listens, `http://127.0.0.1:1984`.

        `timeout`: seconds that an answer may take beyond what the call itself allows. `retry_for`: how long a send with
        a `message_id` is repeated when the server cannot be reached; other calls are never repeated.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is no http(s) URL")
        self._origin, self._prefix = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        key = None if webhook_secret is None else WebhookKey(webhook_secret)
        self._credentials = Credentials(token, key)
        self._timeout, self._retry_for = timeout, retry_for

    @property
    def url(self) -> str:
        return self._origin + self._prefix

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        target, headers = self._credentials.signed(call, self._prefix)
        return {
            "method": call.method,
            "url": self._origin + target,
            "headers": headers,
            "content": call.body or None,
            "timeout": httpx.Timeout(self._timeout, read=call.patience_s + self._timeout),
        }


def _unreachable(call: Call[Any], error: httpx.HTTPError) -> Unreachable:
    not_sent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    what = str(error) or type(error).__name__
    return Unreachable(f"{call.path}: {what}", maybe_done=not not_sent)


class _Retries:
    """Whether, and after how long, a call is tried again."""

    def __init__(self, call: Call[Any], retry_for: float) -> None:
        self._deadline = time.monotonic() + retry_for if call.repeatable else None
        self._attempt = 0

    def pause(self, error: RainbowError, retry_after: str | None) -> float:
        """Seconds to wait before the next attempt; raises the error when there is none."""
        transient = isinstance(error, Unreachable) or (isinstance(error, CallRefused) and error.http_status == 503)
        if self._deadline is None or not transient:
            raise error
        # Exponential, with full jitter: callers do not come back in step.
        pause = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2**self._attempt))
        self._attempt += 1
        if retry_after is not None and retry_after.isdigit():
            pause += min(int(retry_after), BACKOFF_MAX_S)
        if time.monotonic() + pause > self._deadline:
            raise error
        return pause


class Rainbow(_Base):
    """The server, from a business server's side.

        rainbow = Rainbow("http://127.0.0.1:1984", token="testtoken")
        rainbow.send("room", {"text": "hello"}, msgtype=7, qos=1).connections

    Safe to share between threads.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        webhook_secret: str | None = None,
        timeout: float = 5,
        retry_for: float = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, token=token, webhook_secret=webhook_secret, timeout=timeout, retry_for=retry_for)
        self._client = httpx.Client(transport=transport, trust_env=False)

    def call(self, call: Call[T]) -> T:
        retries = _Retries(call, self._retry_for)
        while True:
            retry_after = None
            try:
                response = (_Installed.sync or self._client).request(**self._request(call))
                retry_after = response.headers.get("retry-after")
                return calls.read_answer(call, response.status_code, response.content)
            except httpx.HTTPError as error:
                pause = retries.pause(_unreachable(call, error), None)
            except RainbowError as error:
                pause = retries.pause(error, retry_after)
            time.sleep(pause)

    def send(
        self,
        channel: str | None = None,
        data: Data = None,
        *,
        session: str | None = None,
        user: str | None = None,
        msgtype: int = 1,
        qos: int = 2,
        timeout: float = 10,
        ttl: float | None = None,
        message_id: str | None = None,
        wait: str | None = None,
    ) -> SendResult:
        """Sends `data` to everyone in a channel, to a session or to a user.

        Raises `SendIncomplete` if some will not get it. With `message_id` the call may be repeated, by this library
        too: the server sends it once.
        """
        return self.call(
            calls.send(
                channel,
                data,
                session=session,
                user=user,
                msgtype=msgtype,
                qos=qos,
                timeout=timeout,
                ttl=ttl,
                message_id=message_id,
                wait=wait,
            )
        )

    def broadcast(
        self,
        channels: Iterable[str],
        data: Data = None,
        *,
        msgtype: int = 1,
        qos: int = 2,
        timeout: float = 10,
        ttl: float | None = None,
        message_id: str | None = None,
        wait: str | None = None,
    ) -> SendResult:
        """Sends `data` to everyone in several channels, once each."""
        return self.call(
            calls.send(
                None,
                data,
                channels=channels,
                msgtype=msgtype,
                qos=qos,
                timeout=timeout,
                ttl=ttl,
                message_id=message_id,
                wait=wait,
            )
        )

    def sub(self, identity: str, channel: str, *, occupy: bool = False) -> None:
        """Subscribes a client. `occupy`: everyone else is unsubscribed first."""
        return self.call(calls.sub(identity, channel, occupy=occupy))

    def unsub(self, identity: str, channel: str) -> None:
        return self.call(calls.unsub(identity, channel))

    def kick(
        self,
        identity: str | None = None,
        *,
        channel: str | None = None,
        user: str | None = None,
        code: int = 4500,
        reason: str = "",
    ) -> None:
        """Closes a client, or all in a channel, or all of a user. They return on 4000-4499, not on 4500-4999."""
        return self.call(calls.kick(identity, channel=channel, user=user, code=code, reason=reason))

    def channel(
        self, name: str | None = None, *, user: str | None = None, offset: int = 0, limit: int = 100
    ) -> ChannelResult:
        """Who is in a channel, or which connections a user has."""
        return self.call(calls.channel(name, user=user, offset=offset, limit=limit))

    def session(self, name: str) -> SessionResult:
        return self.call(calls.session(name))

    def drop(self, session: str) -> None:
        """Ends a session and all that waits for it."""
        return self.call(calls.drop(session))

    def info(self) -> Mapping[str, Any]:
        return self.call(calls.info())

    def hello(self) -> None:
        """Returns if the server answers at all."""
        return self.call(calls.hello())

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Rainbow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRainbow(_Base):
    """`Rainbow` for asyncio: `await rainbow.send(...)`. Belongs to one event loop."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        webhook_secret: str | None = None,
        timeout: float = 5,
        retry_for: float = 30,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, token=token, webhook_secret=webhook_secret, timeout=timeout, retry_for=retry_for)
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)

    async def call(self, call: Call[T]) -> T:
        retries = _Retries(call, self._retry_for)
        while True:
            retry_after = None
            try:
                response = await (_Installed.asynchronous or self._client).request(**self._request(call))
                retry_after = response.headers.get("retry-after")
                return calls.read_answer(call, response.status_code, response.content)
            except httpx.HTTPError as error:
                pause = retries.pause(_unreachable(call, error), None)
            except RainbowError as error:
                pause = retries.pause(error, retry_after)
            await asyncio.sleep(pause)

    async def send(
        self,
        channel: str | None = None,
        data: Data = None,
        *,
        session: str | None = None,
        user: str | None = None,
        msgtype: int = 1,
        qos: int = 2,
        timeout: float = 10,
        ttl: float | None = None,
        message_id: str | None = None,
        wait: str | None = None,
    ) -> SendResult:
        """See `Rainbow.send`."""
        return await self.call(
            calls.send(
                channel,
                data,
                session=session,
                user=user,
                msgtype=msgtype,
                qos=qos,
                timeout=timeout,
                ttl=ttl,
                message_id=message_id,
                wait=wait,
            )
        )

    async def broadcast(
        self,
        channels: Iterable[str],
        data: Data = None,
        *,
        msgtype: int = 1,
        qos: int = 2,
        timeout: float = 10,
        ttl: float | None = None,
        message_id: str | None = None,
        wait: str | None = None,
    ) -> SendResult:
        """See `Rainbow.broadcast`."""
        return await self.call(
            calls.send(
                None,
                data,
                channels=channels,
                msgtype=msgtype,
                qos=qos,
                timeout=timeout,
                ttl=ttl,
                message_id=message_id,
                wait=wait,
            )
        )

    async def sub(self, identity: str, channel: str, *, occupy: bool = False) -> None:
        await self.call(calls.sub(identity, channel, occupy=occupy))

    async def unsub(self, identity: str, channel: str) -> None:
        await self.call(calls.unsub(identity, channel))

    async def kick(
        self,
        identity: str | None = None,
        *,
        channel: str | None = None,
        user: str | None = None,
        code: int = 4500,
        reason: str = "",
    ) -> None:
        """See `Rainbow.kick`."""
        await self.call(calls.kick(identity, channel=channel, user=user, code=code, reason=reason))

    async def channel(
        self, name: str | None = None, *, user: str | None = None, offset: int = 0, limit: int = 100
    ) -> ChannelResult:
        return await self.call(calls.channel(name, user=user, offset=offset, limit=limit))

    async def session(self, name: str) -> SessionResult:
        return await self.call(calls.session(name))

    async def drop(self, session: str) -> None:
        await self.call(calls.drop(session))

    async def info(self) -> Mapping[str, Any]:
        return await self.call(calls.info())

    async def hello(self) -> None:
        await self.call(calls.hello())

    async def close(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> AsyncRainbow:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Installed:
    """What takes all calls of the process while a fake server is installed (`rainbow.testing`)."""

    sync: httpx.Client | None = None
    asynchronous: httpx.AsyncClient | None = None


@contextlib.contextmanager
def installed(sync: httpx.Client, asynchronous: httpx.AsyncClient) -> Iterator[None]:
    """While inside, every `Rainbow` and `AsyncRainbow` of the process calls these."""
    before = (_Installed.sync, _Installed.asynchronous)
    _Installed.sync, _Installed.asynchronous = sync, asynchronous
    try:
        yield
    finally:
        _Installed.sync, _Installed.asynchronous = before


BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
