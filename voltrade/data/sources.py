"""The sources of history: Binance's public archive of zipped files, and REST for what the archive doesn't have.

One HTTP client reads both. It tries again after a broken connection, and raises an error when the server refuses. The
archive states the SHA-256 of each file; an interrupted download continues where it stopped. REST is used with half of
the request weight that Binance allows, so that a trading session on the same address has the other half.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from tqdm.auto import tqdm

from voltrade.data.archive_files import ArchiveFile, checksum_fault, checksum_path
from voltrade.errors import DataError
from voltrade.exchange.ip_addresses import without_addresses
from voltrade.exchange.proxies import proxy_of
from voltrade.model import HOUR_MS, MINUTE_MS

ARCHIVE, ARCHIVE_ADDRESS = "VOLTRADE_ARCHIVE", "https://data.binance.vision"
REST, REST_ADDRESS = "VOLTRADE_REST", "https://fapi.binance.com"
"""Environment variable with an address, and the default address."""

WEIGHT_PER_MINUTE = 1_200
"""Half of Binance's 2,400."""

TRADES_PER_PAGE, MARKS_PER_PAGE, RATES_PER_PAGE = 1_000, 1_500, 1_000
"""Most rows of an endpoint's answer."""

_TRADES_WEIGHT, _MARKS_WEIGHT, _OTHER_WEIGHT = 20, 10, 1
_TRIES, _FIRST_TRIES = 6, 3
"""How often a request is tried; fewer times while no server has answered yet, since there may be no network."""
_CHUNK = 1 << 18
_LOCK_WAIT = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_BROKEN = (aiohttp.ClientError, TimeoutError)
Wanted = dict[str, str | int]
"""Parameters of a request."""

_SLOW_DOWN = frozenset({418, 429})


# --- the archive ------------------------------------------------------------------------------------------------------


class Archive:
    """Binance's public archive, or any server of the same layout."""

    def __init__(self, http: Http, address: str, folder: Path) -> None:
        """Use a folder for downloads, so that a later try can continue them."""
        self._http = http
        self._address = address.rstrip("/")
        self._folder = folder

    @asynccontextmanager
    async def fetched(self, file: ArchiveFile) -> AsyncIterator[Path | None]:
        """Download a zip and its CHECKSUM, and again from the start if they differ; None where there is no zip.

        The caller checks the file (see `checksum_fault`) and deletes it; others that need the file wait until then.

        Raises:
            DataError: the server can't be reached, or answers with an error other than 404.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / file.name
        async with _locked(target.with_name(f"{file.name}.lock")):
            yield await self._downloaded(f"{self._address}/{file.path}", target)

    async def _downloaded(self, address: str, target: Path) -> Path | None:
        if target.is_file() and checksum_fault(target) is None:
            return target
        for _ in range(2):
            if not await self._http.download(address, target):
                return None
            await self._http.download(f"{address}.CHECKSUM", checksum_path(target))
            if checksum_fault(target) is None:
                break
        return target


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock that excludes other tasks and processes."""
    with path.open("w") as lock:
        while True:  # a blocking flock could not be cancelled
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(_LOCK_WAIT)
            else:
                break
        yield


# --- REST -------------------------------------------------------------------------------------------------------------


class WeightBudget:
    """Limits the request weight of each minute."""

    def __init__(
        self,
        per_minute: int = WEIGHT_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._per_minute = per_minute
        self._clock, self._sleep = clock, sleep
        self._spent: deque[tuple[float, int]] = deque()
        self._not_before = 0.0

    async def spend(self, weight: int) -> None:
        """Wait until a request of this weight may be sent."""
        while (wait := self._wait(weight)) > 0:
            await self._sleep(wait)
        self._spent.append((self._clock(), weight))

    def pause(self, seconds: float) -> None:
        """Send nothing for a while, as the exchange demands."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _wait(self, weight: int) -> float:
        now = self._clock()
        while self._spent and self._spent[0][0] <= now - 60:
            self._spent.popleft()
        full = sum(spent for _, spent in self._spent) + weight > self._per_minute and self._spent
        return max(self._not_before - now, self._spent[0][0] + 60 - now if full else 0.0)


class RestHistory:
    """Public history over Binance's REST, as pages of JSON."""

    def __init__(self, http: Http, address: str, budget: WeightBudget | None = None) -> None:
        self._http = http
        self._address = address.rstrip("/")
        self._budget = budget or WeightBudget()

    async def exchange_info(self) -> Any:
        return await self._get("exchangeInfo", {}, _OTHER_WEIGHT)

    async def trades(self, symbol: str, from_id: int) -> list[dict[str, Any]]:
        """Return up to 1,000 aggTrades from an id on."""
        wanted: Wanted = {"symbol": symbol, "fromId": from_id, "limit": TRADES_PER_PAGE}
        return list(await self._get("aggTrades", wanted, _TRADES_WEIGHT))

    async def first_id(self, symbol: str, start: int, end: int) -> int | None:
        """Return the id of the first aggTrade in a span of time; None where there is none."""
        for begin in range(start, end, HOUR_MS - 1):
            last = min(begin + HOUR_MS - 2, end - 1)  # Binance wants a span shorter than an hour, both ends included
            wanted: Wanted = {"symbol": symbol, "startTime": begin, "endTime": last, "limit": 1}
            if page := await self._get("aggTrades", wanted, _TRADES_WEIGHT):
                return int(page[0]["a"])
        return None

    async def marks(self, symbol: str, start: int, end: int) -> AsyncIterator[list[list[Any]]]:
        """Yield pages of the 1-minute mark price klines that open in a span of time."""
        while start < end:
            wanted: Wanted = {"symbol": symbol, "interval": "1m", "startTime": start, "endTime": end - 1}
            page = await self._get("markPriceKlines", {**wanted, "limit": MARKS_PER_PAGE}, _MARKS_WEIGHT)
            if not page:
                return
            yield page
            start = _time_of(page[-1], 0) + MINUTE_MS

    async def funding(self, symbol: str, start: int, end: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield pages of the funding rates in a span of time."""
        while start < end:
            wanted: Wanted = {"symbol": symbol, "startTime": start, "endTime": end - 1, "limit": RATES_PER_PAGE}
            page = await self._get("fundingRate", wanted, _OTHER_WEIGHT)
            if not page:
                return
            last = _time_of(page[-1], "fundingTime")
            whole = [row for row in page if _time_of(row, "fundingTime") < last - MINUTE_MS]
            if len(page) == RATES_PER_PAGE and whole:  # a special rate of the last time may be on the next page
                yield whole
                start = last - MINUTE_MS
            else:
                yield page
                start = last + 1

    async def _get(self, endpoint: str, wanted: Wanted, weight: int) -> Any:
        await self._budget.spend(weight)
        return await self._http.json(f"{self._address}/fapi/v1/{endpoint}", wanted, self._budget.pause)


def _time_of(row: Any, key: str | int) -> int:
    """Return the time of a row, from which the next page goes on.

    Raises:
        DataError: the row has none.
    """
    try:
        return int(row[key])
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(f"REST: rows must have a time at {key}, was {str(row)[:200]}") from None


# --- HTTP -------------------------------------------------------------------------------------------------------------


class Http:
    """HTTP client that tries again where this can help: after a broken connection, or when the server is overloaded.

    Every wait is reported before it begins, once where several requests wait for the same reason.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        report: Callable[[str], object] = lambda text: tqdm.write(text, file=sys.stderr),
    ) -> None:
        self._session = session
        self._sleep = sleep
        self._report = report
        self._reported: set[str] = set()
        self._has_answered = False

    @staticmethod
    @asynccontextmanager
    async def opened() -> AsyncIterator[Http]:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            yield Http(session)

    async def json(self, url: str, wanted: Wanted, pause: Callable[[float], None]) -> Any:
        """Return the JSON that a GET is answered with.

        Args:
            pause: called with the seconds for which the server wants no requests.

        Raises:
            DataError: the server refuses, or can't be reached.
            ConfigError: the environment names a proxy that can't be used.
        """
        said, attempt, proxy = "", 0, proxy_of(url) or None
        while True:
            try:
                async with self._session.get(url, params=wanted, proxy=proxy) as reply:
                    self._on_answer()
                    if reply.status == 200:
                        return await reply.json(content_type=None)
                    said = without_addresses(f"HTTP {reply.status} {(await reply.text())[:200]}")
                    wait = _patience(reply, attempt)
            except _BROKEN as error:
                said, wait = _broken(error), 2.0**attempt
            except ValueError as error:
                said, wait = f"no JSON: {error}", 2.0**attempt
            attempt += 1
            if wait is None or attempt >= self._tries:
                raise DataError(f"{url}: {said}")
            pause(wait)
            await self._wait(url, said, wait, attempt)

    async def download(self, url: str, target: Path) -> bool:
        """Download a file, and continue an earlier try from its `.part`; return False where there is no such file.

        Raises:
            DataError: the server refuses or can't be reached.
            ConfigError: the environment names a proxy that can't be used.
        """
        part = target.with_name(f"{target.name}.part")
        said, attempt, proxy = "", 0, proxy_of(url) or None
        while True:
            there = part.stat().st_size if part.exists() else 0
            headers = {"Range": f"bytes={there}-"} if there else {}
            try:
                async with self._session.get(url, headers=headers, proxy=proxy) as reply:
                    self._on_answer()
                    if reply.status == 404:
                        return False
                    if reply.status == 416 and there:  # the part isn't the beginning of the file
                        part.unlink()
                        continue
                    if reply.status in (200, 206):
                        await _save(reply, part, there if reply.status == 206 else 0)
                        part.replace(target)
                        return True
                    said, wait = f"HTTP {reply.status}", _patience(reply, attempt)
            except _BROKEN as error:
                said, wait = _broken(error), 2.0**attempt
            attempt += 1
            if wait is None or attempt >= self._tries:
                raise DataError(f"{url}: {said}")
            await self._wait(url, said, wait, attempt)

    @property
    def _tries(self) -> int:
        return _TRIES if self._has_answered else _FIRST_TRIES

    def _on_answer(self) -> None:
        self._has_answered = True
        self._reported.clear()

    async def _wait(self, url: str, said: str, seconds: float, tried: int) -> None:
        again = f"trying again in {seconds:.0f} s, for try {tried + 1} of {self._tries}"
        text = f"{urlsplit(url).hostname}: {said}; {again}"
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)
        await self._sleep(seconds)


def _broken(error: Exception) -> str:
    """Return why there was no answer; some errors have no message."""
    return without_addresses(f"can't be reached: {error or type(error).__name__}")


async def _save(reply: aiohttp.ClientResponse, part: Path, there: int) -> None:
    size = None if reply.content_length is None else reply.content_length + there
    with (
        part.open("ab" if there else "wb") as file,
        tqdm(total=size, initial=there, unit="B", unit_scale=True, desc=part.stem, leave=False, disable=None) as bar,
    ):
        async for chunk in reply.content.iter_chunked(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _patience(reply: aiohttp.ClientResponse, attempt: int) -> float | None:
    """Return the seconds to wait before the next try; None where another try can't help."""
    if reply.status in _SLOW_DOWN:
        stated = reply.headers.get("Retry-After", "")
        return float(stated) if stated.isdigit() else 60.0
    return 2.0**attempt if reply.status >= 500 else None
