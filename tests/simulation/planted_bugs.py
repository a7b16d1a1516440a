"""The bugs that are planted in copies of our own code, plausible mistakes of one change each; see `planted`."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulation.evidence import Json


@dataclass(frozen=True)
class Bug:
    """A mistake that somebody could make.

    Attributes:
        name: what is wrong.
        file: which file of the package it is in.
        old: the text that stands there exactly once.
        new: what somebody might have written.
        seen_by: oracles of which one should see it.
        struck_by: kinds of faults that its sessions have, in turn, instead of those that are drawn; or `midnight`.
        settings: of its sessions, besides those that are drawn.
    """

    name: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]
    struck_by: tuple[str, ...] = ()
    settings: Json = field(default_factory=dict)


BUGS: tuple[Bug, ...] = (
    Bug(
        "a timeout is taken for a refusal, and tried again with a new id",
        "orders/order_rules.py",
        "    if outcome == states.UNKNOWN_OUTCOME or reaction_to(code) == states.LOOKUP:",
        "    if reaction_to(code) == states.LOOKUP:",
        ("O1", "O2", "O3", "O4", "O5", "O6"),
    ),
    Bug(
        "the stop is not made larger while the entry fills",
        "orders/position_rules.py",
        "return 0 if entry_is_done(symbol) else int(stop.time + states.RESIZE_EVERY_MS)",
        "return NEVER",
        ("O5",),
    ),
    Bug(
        "a fill that is told after its order's end is dropped",
        "orders/core_rules.py",
        "    if event.trade_id:\n        order_rules.apply_fill(account, symbol, event)",
        "    if event.trade_id and not order_queries.is_done(symbol.orders[event.order]):\n"
        "        order_rules.apply_fill(account, symbol, event)",
        ("O1", "O2"),
    ),
    Bug(
        "a fill of a snapshot counts though the stream has told it",
        "orders/snapshot_check.py",
        "= sorted(filter(register.is_new_fill, snapshot.fills), key=",
        "= sorted(snapshot.fills, key=",
        ("O1", "O2"),
    ),
    Bug(
        "a fill counts as often as it is told",
        "orders/order_register.py",
        "return update.trade_id > 0 and update.trade_id not in self.fills",
        "return update.trade_id > 0",
        ("O1", "O2"),
    ),
    Bug(
        "an order's state goes back on late news",
        "orders/order_rules.py",
        "    if not states.LEGAL[1 if is_algo(order) else 0, order.state, state]:\n        return False\n",
        "",
        ("O4", "O5", "O12"),
    ),
    Bug(
        "an order that is not found once never was",
        "oms.py",
        "            if self._absences[number] >= states.ABSENT_ANSWERS_NEEDED and number in self._unlisted:\n"
        "                self._forget_absence(number)  # if this turns out wrong, all of it is needed again\n"
        "                self.absent_at = reply.time\n"
        "                return states.ABSENT",
        "            self.absent_at = reply.time\n            return states.ABSENT",
        ("O3", "O4", "O5"),
    ),
    Bug(
        "the position is set to what a snapshot says",
        "oms.py",
        "        ours, theirs = self.position, snapshot.position.quantity\n",
        "        if self.in_round_trip and self._position_row['entered']:\n"
        "            self._position_row['exited'] = self._position_row['entered'] - abs(snapshot.position.quantity)\n"
        "        ours, theirs = self.position, snapshot.position.quantity\n",
        ("O5", "O6"),
    ),
    Bug(
        "an exit may open a position",
        "orders/row_facts.py",
        "reduce_only=purpose is not Purpose.ENTRY,",
        "reduce_only=purpose in (Purpose.STOP, Purpose.TAKE_PROFIT),",
        ("O1", "O5"),
    ),
    Bug(
        "the stop of a short lies where a long's would",
        "orders/position_rules.py",
        "price_from_average(position.entry_notional, position.entered, position.side * profit)",
        "price_from_average(position.entry_notional, position.entered, profit)",
        ("O5",),
    ),
    Bug(
        "what is left over when the position is gone is not cancelled but for stops",
        "orders/position_rules.py",
        "                cancel(account, symbol, row, time, states.POSITION_CLOSED)",
        "                if purpose == states.STOP:\n"
        "                    cancel(account, symbol, row, time, states.POSITION_CLOSED)",
        ("O4", "O12"),
    ),
    Bug(
        "an order is written down after it was sent",
        "live.py",
        "        self._commit()\n        if isinstance(command, OrderIntent) and",
        "        if isinstance(command, OrderIntent) and",
        ("O7",),
    ),
    Bug(
        "Retry-After is read in milliseconds",
        "exchange/client.py",
        "return self.clock() + int(retry_after) * 1000",
        "return self.clock() + int(retry_after)",
        ("O10",),
    ),
    Bug(
        "a conditional order is cancelled with all others of the account",
        "exchange/rest.py",
        'call = "fapiPrivateDeleteAlgoOrder" if command.algo else "fapiPrivateDeleteOrder"',
        'call = "fapiPrivateDeleteAlgoOpenOrders" if command.algo else "fapiPrivateDeleteOrder"',
        ("O4",),
    ),
    Bug(
        "a stop watches the last price whatever was asked for",
        "exchange/order_params.py",
        '"workingType": order.working_type.value,',
        '"workingType": "CONTRACT_PRICE",',
        ("O15",),
    ),
    Bug(
        "a gap in the trades does not taint its bar",
        "bars.py",
        "        state.gaps += 1\n        bar.tainted = True",
        "        state.gaps += 1",
        ("O11",),
    ),
    Bug(
        "a user stream that is up again counts as in step",
        "core.py",
        "            if status.up:\n                outputs.append(TakeSnapshot",
        "            symbol_state.monitor.reconciled = status.up and self.account is not None\n"
        "            if status.up and self.account is None:\n                outputs.append(TakeSnapshot",
        ("O1", "O2", "O5", "O6"),
    ),
    Bug(
        "halts, limits and cooldown begin anew with the process",
        "core.py",
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        "            row = self._books.symbols[symbol_state.index]\n"
        "            row['last_exit_time'], row['last_exit_bar'] = risk.NO_EXIT, 0\n"
        "            self._books.account['paused'] = NONE\n"
        "            if self.account is not None:\n"
        "                wallet = self.account.wallet\n"
        "                rows = self._books.breaker_rows\n"
        "                self._books.breaker = CircuitBreaker(self.config.risk, self.time, wallet, rows)\n"
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        ("O6", "O9"),
    ),
    Bug(
        "the cooldown counts from the entry",
        "orders/core_rules.py",
        "symbol.last_exit_time, symbol.last_exit_bar = symbol.closed_trips[number].time, symbol.bars",
        "symbol.last_exit_time, symbol.last_exit_bar = symbol.closed_trips[number].time, symbol.opened_at_bar",
        ("O9",),
    ),
    Bug(
        "the core reads a clock",
        "core.py",
        '        self._books.account["now"] = self.time',
        '        self._books.account["now"] = __import__("time").time_ns() // 1_000_000',
        ("O8",),
    ),
    Bug(
        "an absence counts though the request may still arrive",
        "oms.py",
        "        return int(order.row.time) + self._execution.recv_window_ms + states.ABSENCE_MARGIN_MS",
        "        return int(order.row.time)",
        ("O1", "O3", "O4", "O5", "O6", "O9"),
        ("swallowed", "late order"),
    ),
    Bug(
        "a cancel of which nothing is known counts as done",
        "orders/order_rules.py",
        "    if outcome == states.ACCEPTED:\n        move_to(order, states.CANCELED)",
        "    if outcome != states.REFUSED:\n        move_to(order, states.CANCELED)",
        ("O4", "O12"),
        ("cancel swallowed", "cancel lost"),
    ),
    Bug(
        "the pause before a stream is dialled again grows without end",
        "exchange/streams.py",
        "await asyncio.sleep(RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S) - 1)])",
        "await asyncio.sleep(0.05 * 20**failures)",
        ("O12",),
        ("unreachable", "cut network", "maintenance"),
    ),
    Bug(
        "a listen key that has expired is used again",
        "exchange/streams.py",
        "key = key or await self._rest.listen_key()",
        "key = key or self._listen_key or await self._rest.listen_key()",
        ("O5", "O12"),
        ("listen key", "listen key closed", "listen key replaced"),
    ),
    Bug(
        "a stop counts as cover however small it is",
        "orders/position_rules.py",
        "    if not is_waiting(stop) or (stop.quantity >= exposed_lots(symbol, time) and "
        "not is_guessed(symbol, stop)):",
        "    if not is_waiting(stop) or stop.quantity > 0:",
        ("O5",),
        ("thin book", "user lag", "user late"),
    ),
    Bug(
        "exits that work are not counted",
        "orders/position_rules.py",
        "            lots -= int(order.quantity - max(order.filled, order.reported))\n    return lots",
        "            lots -= 0\n    return lots",
        ("O3", "O9", "O12"),
    ),
    Bug(
        "the fees of a round trip are those of its exits",
        "orders/order_rules.py",
        "    position.fees += fill.fee\n    position.realised += fill.realised\n    if order.side == position.side:",
        "    position.fees += 0 if order.side == position.side else fill.fee\n"
        "    position.realised += fill.realised\n    if order.side == position.side:",
        ("O2",),
    ),
    Bug(
        "an entry is sent though the disk takes nothing",
        "live.py",
        "        return not self._is_unstored and self._ballast.lay()",
        "        return self._ballast.lay()",
        ("O7",),
        ("disk full",),
    ),
    Bug(
        "a disk that is full ends the engine",
        "live.py",
        "            if self._is_lockstep:\n                raise\n",
        "            raise\n",
        ("O12",),
        ("disk full",),
    ),
    Bug(
        "rows that the disk refuses are forgotten",
        "journal/__init__.py",
        "                self._connection.rollback()\n",
        "                self._waiting.clear()\n                self._connection.rollback()\n",
        ("O2", "O7", "O8", "O12", "O15"),
        ("disk full",),
    ),
    Bug(
        "a halt is no gate",
        "core.py",
        "    risk.ON_HOLD,\n",
        "",
        ("O6",),
        ("stops by hand", "operator", "liquidated in part", "deleveraged", "all by hand"),
    ),
    Bug(
        "entries do not wait until the account agrees",
        "core.py",
        "    risk.NOT_RECONCILED,\n",
        "",
        ("O6",),
        ("order by hand", "stop by hand"),
    ),
    Bug(
        "the cooldown is a bar too short",
        "risk.py",
        "or bars_since_exit <= cooldown_bars",
        "or bars_since_exit < cooldown_bars",
        ("O9",),
    ),
    Bug(
        "a limit is reached when it is passed",
        "risk.py",
        '        if hold["in_force"] or spent or measure < breaker_limit(state, rules, rule):',
        '        if hold["in_force"] or spent or measure <= breaker_limit(state, rules, rule):',
        ("O9",),
        settings={"max_trades_per_day": 3},
    ),
    Bug(
        "a day has as many round trips as its engines' lives",
        "core.py",
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        '            self._books.account["breaker"]["round_trips_today"] = 0\n'
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        ("O9",),
        ("kill", "kill at send", "kill at write", "kill twice", "torn write"),
        {"max_trades_per_day": 4},
    ),
    Bug(
        "Retry-After is not kept for orders",
        "exchange/client.py",
        "        if wait_ms > 0:",
        '        if wait_ms > 0 and method == "GET":',
        ("O10",),
        ("too many", "ban", "ban unsaid"),
    ),
    Bug(
        "an account that can't be read is read again at once",
        "session/rest_reads.py",
        "                    await asyncio.sleep(SNAPSHOT_AGAIN_S * 2 ** min(failures, SNAPSHOT_DOUBLINGS))",
        "                    await asyncio.sleep(0.05)",
        ("O10", "O12"),
        ("account fails", "unreachable", "other page", "forbidden"),
    ),
    Bug(
        "the clock is not measured again when it is refused",
        "exchange/rest.py",
        "        if response.code == INVALID_TIMESTAMP and response.status == 400:",
        "        if response.code == INVALID_TIMESTAMP and response.status == 401:",
        ("O5", "O6", "O12"),
        ("clock of the exchange",),
    ),
    Bug(
        "a request without an answer counts as never sent",
        "exchange/responses.py",
        '    Rule(Outcome.REFUSED, "no connection was made", _at(NOT_SENT), verbs=_POST),',
        '    Rule(Outcome.REFUSED, "no connection was made", _at(NOT_SENT, NO_ANSWER), verbs=_POST),',
        ("O1", "O2", "O3", "O4", "O5", "O6", "O9"),
        ("answer lost", "cut network"),
    ),
    Bug(
        "a 503 of which nothing is known counts as a refusal",
        "exchange/responses.py",
        'Outcome.UNKNOWN, "sent, and no response"',
        'Outcome.REFUSED, "sent, and no response"',
        ("O1", "O2", "O3", "O4", "O5", "O6", "O9"),
        ("answer lost",),
    ),
    Bug(
        "a timeout inside the exchange counts as a refusal",
        "exchange/responses.py",
        "LOST = frozenset({-1000, -1001, -1006, -1007, -1010})",
        "LOST = frozenset({-1010})",
        ("O1", "O2", "O3", "O4", "O5", "O6", "O9"),
        ("unknown code",),
    ),
    Bug(
        "who bought and who sold is mixed up",
        "exchange/messages.py",
        "            return trade_id, price, quantity, time, maker\n",
        "            return trade_id, price, quantity, time, not maker\n",
        ("O11",),
    ),
    Bug(
        "of our trades one short page is read",
        "exchange/account_reader.py",
        '            wanted = {"symbol": symbol, "limit": PAGE} |',
        '            wanted = {"symbol": symbol, "limit": 2} |',
        ("O1", "O2", "O12"),
        ("user silent", "user deaf", "user dropped"),
    ),
    Bug(
        "leverage is not compared",
        "orders/snapshot_check.py",
        "    if account.leverage != wanted.leverage:",
        "    if account.leverage < 1:",
        ("O6",),
        ("leverage by hand",),
    ),
    Bug(
        "what any reading lists counts as agreed",
        "oms.py",
        "        self._check.note_shown(snapshot)\n",
        "        self._check.note_shown(snapshot)\n        self._check.agreed_trade_id = self._check.listed_trade_id\n",
        ("O1", "O2", "O12"),
        ("user dropped", "user silent", "user deaf", "answer lost"),
    ),
    Bug(
        "a fill by another hand is only told",
        "oms.py",
        '            self._row["halt_wanted"] = records.HALTED_BY_FOREIGN_ORDER\n',
        "",
        ("O6",),
        ("by hand", "other program"),
    ),
    Bug(
        "a stop that a person cancels is only sent again",
        "orders/order_rules.py",
        "    if order.state == states.CANCELED or order.state == states.GONE:\n",
        "    if False:\n",
        ("O6",),
        ("stops by hand", "all by hand"),
    ),
    Bug(
        "nobody wakes for a look-up",
        "orders/position_timers.py",
        "        if not is_done(order):\n            due = min(due, order.lookup_at)\n",
        "",
        ("O4", "O5", "O12"),
        ("swallowed", "answer lost", "cancel lost", "cancel swallowed", "lookup fails"),
    ),
    Bug(
        "a session that is to end flat keeps its position",
        "orders/core_rules.py",
        "    stop_entries(account, symbols, account.flatten_at_end, reason)",
        "    stop_entries(account, symbols, False, reason)",
        ("O12",),
    ),
    Bug(
        "what an order moves in the wallet counts as a transfer too",
        "core.py",
        '        if not self._books.account["is_open"] or update.reason == "ORDER" or not update.change:',
        '        if not self._books.account["is_open"] or not update.change:',
        ("O2", "O9"),
    ),
    Bug(
        "the wallet is taken for what funding paid",
        "exchange/messages.py",
        'wallet, amount = balance.money("wb"), balance.money("bc") if balance.has("bc") else 0',
        'wallet, amount = balance.money("wb"), balance.money("wb") if balance.has("bc") else 0',
        ("O2", "O9"),
        ("deposit", "withdrawal", "money moves"),
    ),
    Bug(
        "funding is no part of a round trip",
        "orders/core_rules.py",
        "        symbol.position.funding += amount",
        "        symbol.position.funding += 0",
        ("O2",),
        ("midnight",),
        {"funding_rate": 0.0003},
    ),
    Bug(
        "the stream that is watched is that of the answers",
        "session/account_watch.py",
        "                self._sent.add(name)\n",
        "                self._sent.add(name)\n                self._reported.add(name)\n",
        ("O12",),
        ("user deaf",),
    ),
    Bug(
        "the day of the bars ends an hour late",
        "bars.py",
        "    if spec.daily and time >= state.day_end:",
        "    if spec.daily and time >= state.day_end + 3_600_000:",
        ("O11",),
        ("midnight",),
    ),
    Bug(
        "the day of the limits is so many milliseconds as a day has seconds",
        "risk.py",
        "    now, day = state[0], time // DAY_MS\n",
        "    now, day = state[0], time // 86_400\n",
        ("O9",),
        settings={"max_trades_per_day": 3},
    ),
    Bug(
        "an exit is as large as its entry, whatever the exchange takes",
        "orders/position_rules.py",
        "        part = lots if largest_exit(symbol) == 0 else min(lots, largest_exit(symbol))",
        "        part = lots",
        ("O5", "O12"),
        ("filters",),
    ),
    Bug(
        "an exit that is refused is not sent again",
        "orders/order_rules.py",
        "    position.exit_retry_at = time + (states.RETRY_AFTER_MS << protect_doublings(position.exit_tries))",
        "    position.exit_retry_at = NEVER",
        ("O5", "O12"),
        ("refused", "overload", "internal error", "account refused"),
    ),
    Bug(
        "a cancel that is refused counts as done",
        "orders/order_rules.py",
        "    if outcome == states.ACCEPTED:\n        move_to(order, states.CANCELED)",
        "    if outcome != states.UNKNOWN_OUTCOME:\n        move_to(order, states.CANCELED)",
        ("O4", "O12"),
        ("cancel refused",),
    ),
    Bug(
        "the pauses of stops and exits double without end",
        "orders/order_rules.py",
        "    return min(max(tries - states.QUICK_TRIES, 0), states.MAX_PROTECT_DOUBLINGS)",
        "    return tries",
        ("O5", "O12"),
        ("refused", "overload", "internal error"),
    ),
    Bug(
        "a position without cover is closed after a minute",
        "orders/order_states.py",
        "PROTECT_WITHIN_MS = 3_000",
        "PROTECT_WITHIN_MS = 60_000",
        ("O5",),
        ("stuck trigger", "account refused", "refused"),
    ),
    Bug(
        "names of orders repeat after a restart",
        "oms.py",
        '        self._outputs.restart_suffix = f"r{np.base_repr(time // 1000, 36).lower()}"',
        '        self._outputs.restart_suffix = ""',
        ("O3",),
        ("lost writes",),
    ),
    Bug(
        "an order that is told of before its answer is somebody else's",
        "orders/order_register.py",
        "        if number is None and (number := self.numbers.get(update.client_order_id)) is not None:",
        "        if number is None and (number := None) is not None:",
        ("O4", "O12"),
        ("slow answers", "user reordered"),
    ),
)
