"""What the wallet has more or less than the books is what the income history says, or is told as unexplained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.by_hand import enter
from test_core import a_core, a_position, a_snapshot

from voltrade.core import TradingCore
from voltrade.model import (
    MINUTE_MS,
    AccountUpdate,
    Alert,
    AlgoUpdate,
    Income,
    OrderType,
    OrderUpdate,
    ResumeState,
    Side,
    Snapshot,
    TakeSnapshot,
    Timer,
    money,
)
from voltrade.wallet_check import MOST_READINGS, Shares, WalletCheck

LATER = 2 * MINUTE_MS
"""When the wallet is read again, ms after it was 10,000: so late that the stream has told what it tells."""


def opened() -> TradingCore:
    """A core whose wallet was 10,000 at 3 ms."""
    core = a_core()
    core.handle(a_snapshot())
    return core


def read(core: TradingCore, wallet: str, *income: tuple[int, str, str], at: int = LATER, symbol: str = "") -> list[str]:
    """The account is read twice, the second time with its history; return what is told."""
    first = replace(a_snapshot(at), wallet=money(wallet))
    told = [output for output in core.handle(first)[1] if isinstance(output, Alert)]
    [asked] = [output for output in core.handle(Timer(core.next_due))[1] if isinstance(output, TakeSnapshot)]
    assert (asked.reason, told) == ("WALLET_DIFFERS", [])
    rows = tuple(Income(time, kind, money(amount), symbol) for time, kind, amount in income)
    return alerts(core, replace(first, time=asked.time + 30, income=rows))


def alerts(core: TradingCore, snapshot: Snapshot) -> list[str]:
    return [f"{each.code} {each.text.split()[-1]}" for each in core.handle(snapshot)[1] if isinstance(each, Alert)]


def books(core: TradingCore) -> tuple[int, ...]:
    """Wallet, transfers, adjustments and funding, whole dollars."""
    account = core.account
    assert account is not None
    return tuple(each // money(1) for each in (account.wallet, account.transfers, account.adjustments, account.funding))


CASES = [
    ("a deposit that nobody told", "10050", [(70_000, "TRANSFER", "50")], ["TRANSFER 50.00000000"], (10050, 50, 0, 0)),
    (
        "somebody's loss",
        "9875",
        [(70_000, "REALIZED_PNL", "-124"), (70_000, "COMMISSION", "-1")],
        ["ADJUSTMENT -125.00000000"],
        (9875, 0, -125, 0),
    ),
    (
        "both, and what was before the agreement",
        "9930",
        [(2, "TRANSFER", "5000"), (70_000, "REALIZED_PNL", "-100"), (71_000, "INSURANCE_CLEAR", "30")],
        ["TRANSFER 30.00000000", "ADJUSTMENT -100.00000000"],
        (9930, 30, -100, 0),
    ),
    ("funding of ours", "9998", [(70_000, "FUNDING_FEE", "-2")], [], (9998, 0, 0, -2)),
]


@pytest.mark.parametrize(
    ("wallet", "income", "told", "booked"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_difference_is_booked_as_what_the_history_says(
    wallet: str, income: list[tuple[int, str, str]], told: list[str], booked: tuple[int, ...]
) -> None:
    core = opened()
    assert read(core, wallet, *income, symbol="BTCUSDT") == told
    assert books(core) == booked
    assert core.income_since == 0


def test_funding_of_a_symbol_that_is_not_traded_here_is_a_transfer() -> None:
    assert read(opened(), "9998", (70_000, "FUNDING_FEE", "-2"), symbol="ETHUSDT") == ["TRANSFER -2.00000000"]


@pytest.mark.parametrize(("held", "books_wallet"), [(0, 10_050), (4, 10_000)], ids=["order", "order and lots"])
def test_a_deposit_is_booked_while_an_order_of_somebody_else_rests(held: int, books_wallet: int) -> None:
    """It fills nothing, so that nothing is missing in our books; lots that our fills don't make may be its fills.

    Entries wait for the order to go, either way.
    """
    core = opened()
    resting = AlgoUpdate(2, "BTCUSDT", "theirs", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    rows = (Income(70_000, "TRANSFER", money(50), ""),)
    for at in (LATER, LATER + 30_000):
        shown = replace(a_snapshot(at, held), wallet=money(10_050), algo_orders=(resting,), income=rows)
        core.handle(shown)
    assert books(core)[0] == books_wallet
    assert not core.symbol_states["BTCUSDT"].monitor.reconciled


def test_what_the_stream_has_told_is_not_booked_again() -> None:
    """25 were withdrawn, and told; 100 were lost by others, of which the stream tells nothing."""
    core = opened()
    core.handle(AccountUpdate(60_000, "WITHDRAW", money(9_975), change=money(-25)))
    rows = (60_000, "TRANSFER", "-25"), (61_000, "REALIZED_PNL", "-100")
    assert read(core, "9875", *rows) == ["ADJUSTMENT -100.00000000"]
    assert books(core) == (9875, -25, -100, 0)


def test_what_the_stream_may_still_tell_is_not_booked() -> None:
    """A deposit of five seconds ago: its event comes, and then nothing differs."""
    core = opened()
    assert read(core, "10050", (LATER - 5_000, "TRANSFER", "50")) == []
    core.handle(AccountUpdate(LATER - 5_000, "DEPOSIT", money(10_050), change=money(50)))
    assert alerts(core, replace(a_snapshot(LATER + 5_000), wallet=money(10_050))) == []
    assert books(core) == (10_050, 50, 0, 0)


def test_a_history_that_is_behind_the_wallet_is_waited_for() -> None:
    core = opened()
    assert read(core, "9875") == []
    rows = (Income(70_000, "REALIZED_PNL", money(-125), "ETHUSDT"),)
    late = replace(a_snapshot(LATER + 20_000), wallet=money(9_875), income=rows)
    assert alerts(core, late) == ["ADJUSTMENT -125.00000000"]


@pytest.mark.parametrize(("wallet", "mode"), [("8500", "HALTED"), ("11500", "ACTIVE")])
def test_what_nothing_explains_is_told_after_a_minute_and_only_a_loss_counts(wallet: str, mode: str) -> None:
    """A tenth of 10,000 may be lost: 1,500 that went nobody knows where count as lost; as many that came do not."""
    core = a_core(max_drawdown_fraction=0.1)
    core.handle(a_snapshot())
    asked = []
    for _ in range(MOST_READINGS):
        assert alerts(core, replace(a_snapshot(core.time + 30), wallet=money(wallet))) == []
        asked += [each.time for each in core.handle(Timer(core.next_due))[1] if isinstance(each, TakeSnapshot)]
    assert asked[-1] - asked[0] == pytest.approx(62_000, abs=500)
    _, outputs = core.handle(replace(a_snapshot(core.time + 30), wallet=money(wallet)))
    [alert] = [each for each in outputs if isinstance(each, Alert)]
    assert alert.code == "ADJUSTMENT"
    assert "nothing says why" in alert.text
    assert core.breaker is not None
    assert core.breaker.mode == mode
    assert core.breaker.state()["day_equity"] == money(max(int(wallet), 10_000))  # a gain is no profit to be lost


def test_the_next_run_knows_since_when() -> None:
    """A thousand are deposited while no engine runs."""
    first = opened()
    second = a_core()
    state = first.state()
    assert state is not None
    second.handle(ResumeState(4, json.dumps(state), head=""))
    assert read(second, "11000", (70_000, "TRANSFER", "1000")) == ["TRANSFER 1000.00000000"]


def test_what_the_fills_of_the_first_snapshot_have_cost_is_in_its_wallet_already() -> None:
    """An entry of which the journal has lost everything had cost 4: for the limits of the day they are a loss."""
    core = a_core()
    fill = OrderUpdate(2, "BTCUSDT", "vt-t-1e1", 1, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
    fill = replace(fill, trade_id=1, last_quantity=10, last_price=1_000, fee=money(4))
    core.handle(replace(a_snapshot(position=10), wallet=money(9_996), fills=(fill,)))
    assert core.account is not None
    assert (core.account.wallet, core.account.fees, core.account.transfers) == (money(9_996), money(4), 0)
    assert core.breaker is not None
    assert (core.breaker.state()["day_equity"], core.breaker.state()["equity"]) == (money(10_000), money(10_000))
    assert core.income_since == 0


@pytest.mark.parametrize(("paid_at", "funding"), [(4, -77), (3, 0)])
def test_funding_of_a_position_that_has_ended_is_not_that_of_the_next(paid_at: int, funding: int) -> None:
    """The position that is open has been since 4 ms."""
    core = a_core()
    a_position(core)
    core.handle(AccountUpdate(paid_at, "FUNDING_FEE", money(10_000) - 77, -77, "BTCUSDT"))
    assert core.account is not None
    assert (core._books.symbols[0]["position"]["funding"], core.account.funding) == (funding, -77)


def test_funding_that_is_told_while_the_next_entry_has_no_fill_is_not_that_of_its_position() -> None:
    core = opened()
    enter(core.symbol_states["BTCUSDT"].monitor, 3, Side.BUY, 10)
    core.handle(AccountUpdate(4, "FUNDING_FEE", money(10_000) - 77, -77, "BTCUSDT"))
    assert core.account is not None
    assert (core._books.symbols[0]["position"]["funding"], core.account.funding) == (0, -77)


def test_a_payment_that_is_told_twice_is_booked_once() -> None:
    core = opened()
    paid = AccountUpdate(70_000, "DEPOSIT", money(10_500), money(500))
    later = replace(paid, time=71_000, wallet=money(11_000))
    for update in (paid, later, paid, later):
        core.handle(update)
    assert books(core) == (11_000, 1_000, 0, 0)


def others(time: int) -> Income:
    return Income(time, "REALIZED_PNL", money(20), "BTCUSDT")


def test_a_wallet_that_may_lack_a_fill_of_ours_is_no_trade_of_others() -> None:
    """A wallet may be read from before a fill of ours, up to 15 s ago, whether its history has the fill or not."""
    core = opened()
    check = core._wallet
    check.note_agreement(100_000, money(1_000))
    fill = OrderUpdate(160_000, "BTCUSDT", "x", 9, Side.SELL, OrderType.MARKET, "FILLED", "TRADE", 1, 1, trade_id=7)
    core.handle(replace(fill, last_quantity=1, last_price=1_000))
    core.handle(replace(fill, time=165_000, execution="NEW", trade_id=0))
    stale = replace(a_snapshot(172_000), wallet=money(1_000), income=())
    current = replace(stale, income=(Income(160_000, "COMMISSION", money(-50), "BTCUSDT"),))
    for each in (stale, current):
        assert check.shares(each, money(950), {"BTCUSDT"}) is None
    later = replace(current, time=175_000, wallet=money(970), income=(*current.income, others(166_000)))
    assert check.shares(later, money(950), {"BTCUSDT"}) == Shares(others=money(20))


def test_no_trade_of_others_is_found_where_the_history_has_none() -> None:
    """The wallet of 25 s ago, from before a fill of ours, is that of the last agreement; a restart has forgotten the
    fill's time."""
    check = WalletCheck()
    check.note_agreement(118_000, money(1_000))
    of_ours = Income(123_000, "COMMISSION", money(-50), "BTCUSDT")
    for income in ((), (of_ours,)):
        stale = replace(a_snapshot(144_000), wallet=money(1_000), income=income)
        assert check.shares(stale, money(950), {"BTCUSDT"}) is None


def test_a_fill_that_wallet_and_history_have_need_not_be_waited_for() -> None:
    """Ours cost 50, somebody else's 30, two seconds ago; a snapshot has told it."""
    core = opened()
    fill = OrderUpdate(160_000, "BTCUSDT", "x", 9, Side.SELL, OrderType.MARKET, "FILLED", "TRADE", 1, 1, trade_id=7)
    core.handle(replace(a_snapshot(162_000), fills=(fill,)))
    core._wallet.note_agreement(100_000, money(1_000))
    rows = Income(159_000, "COMMISSION", money(-30)), Income(160_000, "COMMISSION", money(-50), "BTCUSDT")
    read = replace(a_snapshot(162_000), wallet=money(920), income=rows)
    assert core._wallet.shares(read, money(950), {"BTCUSDT"}) == Shares(others=money(-30))
    assert core._wallet.shares(replace(read, wallet=money(970)), money(950), {"BTCUSDT"}) is None


def test_a_wallet_that_may_lack_what_was_told_of_funding_books_nothing_back() -> None:
    core = opened()
    check = core._wallet
    check.note_agreement(100_000, money(10_000))
    core.handle(AccountUpdate(160_000, "FUNDING_FEE", money(9_950), money(-50), "BTCUSDT"))
    for income in ((), (Income(160_000, "FUNDING_FEE", money(-50), "BTCUSDT"),)):
        stale = replace(a_snapshot(172_000), wallet=money(10_000), income=income)
        assert check.shares(stale, money(9_950), {"BTCUSDT"}) is None


def test_a_difference_is_unexplained_after_a_minute_however_often_the_account_is_read() -> None:
    """Lists may be out of date for many seconds, and other causes have the account read meanwhile."""
    check, booked_at = WalletCheck(), 0
    for now in range(1_000, 100_000, 500):
        if check.pause(now) is None:
            booked_at = now
            break
    assert booked_at == 1_000 + 63_000
