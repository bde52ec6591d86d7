"""Remove one guarantee of the code at a time; a test must fail.

Run it by ``python -m tests.mutations [-j JOBS] [WORD ...]``; words choose mutations by their sentence. Each
mutation is made in a copy of the tree, and the tests that are named with it must fail there.
``tests/test_mutations.py`` shows that every place is there still.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutate import ROOT, Change, constant, drop, in_text, mutated, rewrite, swap

_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Mutation:
    """One guarantee taken out.

    Args:
        guarantee: What then no longer holds, in one sentence.
        place: Where it is given: see ``tests.mutate``.
        change: What takes it out.
        tests: What must fail then: arguments for pytest.
    """

    guarantee: str
    place: str
    change: Change
    tests: tuple[str, ...]


MUTATIONS: Final = (
    # Nothing is deleted before it is safe.
    Mutation(
        "A job is stored as done before its message is deleted.",
        "engine: settle",
        swap("lane.store.ledger.done", "lane.deletes.add(_)"),
        ("tests/in_memory/test_stop.py",),
    ),
    Mutation(
        "A dead letter is stored before its message is deleted.",
        "engine: _set_aside",
        swap("lane.store.ledger.set_aside", "lane.deletes.add(_)"),
        ("tests/in_memory/test_stop.py",),
    ),
    Mutation(
        "A dead letter beyond the limit is not stored; its message stays.",
        "engine: _set_aside",
        rewrite("not lane.letters.take(_1)", "lane.letters.take(_1) is None"),
        ("tests/engine/test_letter_limit.py",),
    ),
    Mutation(
        "At the limit of dead letters nothing is polled.",
        "engine: Poller._take_slots",
        rewrite("lane.letters.is_full", "False"),
        ("tests/engine/test_letter_limit.py",),
    ),
    Mutation(
        "A message that is set aside for itself alone leaves its job open.",
        "engine: _set_aside",
        rewrite("dead.closes_job and _1", "_1"),
        ("tests/engine/test_forged.py",),
    ),
    # Claims, leases and receipts.
    Mutation(
        "Only its holder ends a claim.",
        "store: _mine",
        in_text("WHERE holder = $1 AND ", "WHERE $1::text IS NOT NULL AND "),
        ("tests/store/test_store_ledger.py",),
    ),
    Mutation(
        "A running claim is refused to its own holder too.",
        "store/postgres/statements: CLAIM",
        in_text("job.key_id <> ALL ($5::bytea[])", "$5::bytea[] IS NOT NULL"),
        ("tests/store/test_store_ledger.py",),
    ),
    Mutation(
        "A claim whose lease has ended may be taken over.",
        "store/postgres/statements: CLAIM",
        in_text("OR job.held_until <= ", "OR 0 > "),
        ("tests/store/test_store_ledger.py",),
    ),
    Mutation(
        "A message is deleted or hidden by its newest receipt.",
        "engine: Delivery.renewed",
        drop("self._take_receipt(_)"),
        ("tests/in_memory/test_lease.py",),
    ),
    Mutation(
        "A plain function keeps its claim when its lease is lost.",
        "engine: next_state",
        rewrite("found is LeaseState.LOST and stage >= Stage.RUNNING", "False"),
        ("tests/in_memory/test_lease.py", "tests/engine/test_lease_state.py"),
    ),
    Mutation(
        "What a blocked event loop holds is renewed from another thread.",
        "engine: StandIn._due",
        rewrite("due.append(_)", "due.extend(())"),
        ("tests/process/test_blocked_loop.py", "tests/engine/test_blocked_loop.py"),
    ),
    Mutation(
        "The event loop waits for the receipt that the other thread uses.",
        "engine: ReceiptLock.acquire",
        rewrite("self._loans != self._returned", "self._loans < self._returned"),
        ("tests/engine/test_blocked_loop.py",),
    ),
    Mutation(
        "A block is no start of the handlers that do not block.",
        "engine: StandIn._take_starts_back",
        rewrite("delivery is not self._blocking and delivery.has_recorded_start", "False"),
        ("tests/process/test_blocked_loop.py",),
    ),
    Mutation(
        "A job that may crash the process runs alone.",
        "policy: SUSPECT_STARTS",
        constant(99),
        ("tests/process/test_crashing.py",),
    ),
    # Stops.
    Mutation(
        "An end that is being stored is not cut short.",
        "app: App._work",
        rewrite("HURRY_S", "0.0"),
        ("tests/in_memory/test_stop.py",),
    ),
    Mutation(
        "A stop sends the deletes that are pending.",
        "app: App._work",
        drop("await self.stopping.flush()"),
        ("tests/in_memory/test_stop.py",),
    ),
    Mutation(
        "A stop needs no new thread.",
        "daemon: run",
        rewrite("not ended.is_set()", "ended.is_set()"),
        ("tests/process/test_no_threads.py",),
    ),
    # Outages.
    Mutation(
        "Polls that fail are paced.",
        "engine: Poller._receive",
        rewrite("await self._pause(_1)", "(_1, await self._pause(0))"),
        ("tests/in_memory/test_poll.py",),
    ),
    Mutation(
        "An open circuit breaker lets one call through at a time.",
        "engine: Breaker.try_probe",
        rewrite("now < max(self.retry_at, self._half_open_until)", "False"),
        ("tests/engine/test_breaker.py",),
    ),
    Mutation(
        "Renewals that fail are probed one at a time.",
        "engine: LeaseKeeper._due",
        rewrite("self._breaker.is_closed", "True"),
        ("tests/in_memory/test_lease.py",),
    ),
    Mutation(
        "While the store is down nothing is polled.",
        "engine: Poller._take_slots",
        rewrite("lane.store.is_up", "True"),
        ("tests/in_memory/test_poll.py",),
    ),
    Mutation(
        "While deletes fail and many wait nothing is polled.",
        "engine: Poller._take_slots",
        rewrite("lane.deletes.crowded", "False"),
        ("tests/in_memory/test_poll.py",),
    ),
    Mutation(
        "Questions wait while MPS does not answer.",
        "engine: JobQueries.query",
        rewrite("await self._wait(_)", "await anyio.sleep(0.1)"),
        ("tests/in_memory/test_results.py",),
    ),
    Mutation(
        "A request is sent once.",
        "cloud: open_pool",
        drop("session._retry_connection = False"),
        ("tests/cloud/test_cloud_pool.py", "tests/cloud/test_cloud_mns.py"),
    ),
    Mutation(
        "What a server sends unasked is not the next answer.",
        "cloud: _Connector.connect",
        rewrite("not protocol.reused or protocol.is_clean()", "True"),
        ("tests/cloud/test_cloud_pool.py",),
    ),
    # Clocks.
    Mutation(
        "A Date that can't be true is not believed.",
        "cloud: ServerClock.read",
        rewrite("date_s is not None and abs(date_s - expected_s) > BELIEVED_S", "False"),
        ("tests/cloud/test_cloud_pool.py", "tests/cloud/test_own_mns.py"),
    ),
    Mutation(
        "A message's age grows by the monotonic clock.",
        "engine: Delivery.age_s",
        rewrite(
            "self._received_age_s + time.monotonic() - self.received_at",
            "max(0.0, time.time() + self.server_offset_s - self.message.enqueued_at)",
        ),
        ("tests/engine/test_clocks.py",),
    ),
    Mutation(
        "A wrong clock removes nothing from the store.",
        "engine: prune",
        drop("_require_agreement(_, _)"),
        ("tests/engine/test_clocks.py",),
    ),
    # The store's files.
    Mutation(
        "The lock's file is never opened through a link.",
        "store: FileOwner._lock",
        rewrite("_1 | os.O_NOFOLLOW", "_1"),
        ("tests/store/test_store_file_access.py",),
    ),
    Mutation(
        "The database itself is locked, under whatever name.",
        "store: FileOwner.acquire",
        rewrite("self._lock_inode(_)", "True"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "A ledger that was made is not replaced by a new one.",
        "store: WriterThread._open",
        drop("self._owner.mark()"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "Nothing is written to a file that was found damaged.",
        "store: WriterThread._explained",
        drop("self._files.distrust()"),
        ("tests/store/test_store_sqlite.py",),
    ),
    Mutation(
        "A forked child releases the store.",
        "store/sqlite/files",
        drop("os.register_at_fork(after_in_child=_)"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "No descriptor of the database is closed while SQLite has it open.",
        "store: FileOwner.check",
        rewrite(
            "self._locked == _identity(self._lock_path)",
            "os.close(os.open(self._path, os.O_RDONLY)) or self._locked == _identity(self._lock_path)",
        ),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "The lock is checked before each batch.",
        "store: WriterThread._connect",
        drop("self._owner.check()"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "A write-ahead log that was cut off is noticed.",
        "store: OpenFiles._truncation",
        rewrite("wal_bytes < needed", "wal_bytes < 0"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "A write-ahead log that others put in place is left to them.",
        "store: WriterThread._disconnect",
        rewrite("self._files.may_be_closed()", "True"),
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "The death of the store's thread ends the daemon.",
        "app: App.serve",
        drop("background.start_soon(self._watch_store)"),
        ("tests/process/test_store_trouble.py",),
    ),
    Mutation(
        "A store that others may write is refused.",
        "store: WriterThread._open",
        rewrite("access_refusal(self._path, by_owner=True)", "None"),
        ("tests/store/test_store_file_access.py",),
    ),
    Mutation(
        "Of several rows of a key the last one counts.",
        "store: Reader._latest_first",
        rewrite("_1.desc()", "_1.asc()"),
        ("tests/store/test_store_sqlite.py",),
    ),
    # PostgreSQL.
    Mutation(
        "Certificates are verified off loopback.",
        "store_address: PostgresAddress.tls_mode",
        rewrite("None if _ else SslMode.VERIFY_FULL", "None"),
        ("tests/settings/test_store_address.py", "tests/store/test_store_postgres_tls.py"),
    ),
    Mutation(
        "Claims and ends wait for the server's disk.",
        "store/postgres/connection: _conditional",
        in_text("= 'off' AND", "= 'no' AND"),
        ("tests/store/test_store_postgres.py",),
    ),
    Mutation(
        "No setting outlives its transaction behind a pooler.",
        "store/postgres/connection: begin",
        rewrite("_conditional(settings, is_local='true')", "_conditional(settings, is_local='false')"),
        ("tests/store/test_store_postgres_pooler.py",),
    ),
    Mutation(
        "A connection pooler is recognised.",
        "store: Link._connect",
        rewrite("_1 != 'SELECT 1'", "_1 == 'no'"),
        ("tests/store/test_store_postgres_pooler.py",),
    ),
    # Forged messages.
    Mutation(
        "MPS is asked whether a job has failed.",
        "engine: _must_ask",
        rewrite("notification.phase is Phase.FAILED", "False"),
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "A message that contradicts MPS is set aside.",
        "engine: complete",
        rewrite("contradictions", "(lambda *_, **__: ())"),
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "A message that contradicts the ledger is no duplicate.",
        "engine: _compare",
        rewrite("not different", "different is not None"),
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "A result is never taken from the message.",
        "engine: _must_ask",
        rewrite("_.trust_inline_result and _1", "_1"),
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "A letter's row says from the start that its hook is due.",
        "engine: _letter",
        rewrite("delivery.rules.registry.letter_hook is None", "True"),
        ("tests/in_memory/test_letter_hooks.py",),
    ),
    Mutation(
        "A hook that has failed stays due.",
        "engine: LetterHooks._call",
        rewrite("failure is None", "True"),
        ("tests/in_memory/test_letter_hooks.py",),
    ),
    # Secrets, logs and the admin server.
    Mutation(
        "No secret is stored in a dead letter's error.",
        "engine: _letter",
        rewrite("SECRETS.mask(_1.error)", "_1.error"),
        ("tests/engine/test_stored_secrets.py",),
    ),
    Mutation(
        "No secret is stored in a failure's error.",
        "engine: _run_record",
        rewrite("SECRETS.mask(why)", "why"),
        ("tests/engine/test_stored_secrets.py",),
    ),
    Mutation(
        "No secret is stored in a failure's traceback.",
        "engine: _run_record",
        rewrite("SECRETS.mask(traceback_of(_1))", "traceback_of(_1)"),
        ("tests/engine/test_stored_secrets.py",),
    ),
    Mutation(
        "Logs show control characters as escapes.",
        "ops: _json_line",
        drop("line = json_escaped(_).encode()"),
        ("tests/ops/test_logs.py",),
    ),
    Mutation(
        "A sender's span is a link, not the parent.",
        "ops: Traces.processing",
        rewrite("not self._trusted", "False"),
        ("tests/engine/test_traces.py",),
    ),
    Mutation(
        "Silent clients of the admin server make room for others.",
        "ops: _Server.connection_made",
        rewrite("self._end(_)", "transport.abort()"),
        ("tests/ops/test_admin.py",),
    ),
    Mutation(
        "The admin server refuses foreign host names.",
        "ops: AdminServer._route",
        rewrite("not is_allowed_host(_, _)", "False"),
        ("tests/ops/test_admin.py",),
    ),
    Mutation(
        "No proxy sees the keys of a metadata server.",
        "cloud: default_parts",
        drop("go_direct()"),
        ("tests/cloud/test_cloud_credentials_proxy.py",),
    ),
    Mutation(
        "Keys are renewed without a new thread.",
        "cloud: _SearchThreads.submit",
        rewrite("not self._threads", "self._threads"),
        ("tests/cloud/test_cloud_credentials.py",),
    ),
    # The command line and handlers' files.
    Mutation(
        "A right that is missing is named.",
        "cloud: Exchange.failure",
        drop("detail = _"),
        ("tests/cloud/test_cloud_mps.py", "tests/cli/test_cli_check_rights.py", "tests/engine/test_missing_rights.py"),
    ),
    Mutation(
        "Check calls a denied delete bad.",
        "cli: _right",
        rewrite("bad(right.name, _, queue)", "good(right.name, '', queue)"),
        ("tests/cli/test_cli_check_rights.py",),
    ),
    Mutation(
        "A request that breaks a rule is not sent.",
        "functions: refused",
        rewrite("finding.level in refusing", "False"),
        ("tests/cli/test_cli_submit.py",),
    ),
    Mutation(
        "An Output in another region is refused: its job would say Success and write nothing.",
        "functions: _regions",
        rewrite("region != known", "False"),
        ("tests/functions/test_request.py",),
    ),
    Mutation(
        "A job that says Success and has written nothing is a failed one.",
        "engine: _validate",
        rewrite("not read.is_written", "False"),
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "A submission whose answer is lost may exist.",
        "submissions: send_once",
        rewrite("surely_not_sent(error)", "error is not None"),
        ("tests/cli/test_cli_submit.py",),
    ),
    Mutation(
        "No secret is given on the command line.",
        "cli: _run",
        drop("refuse_secrets(words)"),
        ("tests/cli/test_cli_secrets.py",),
    ),
    Mutation(
        "A handlers' folder is loaded from source alone.",
        "plugin: _new_package",
        rewrite("not installed", "False"),
        ("tests/plugin/test_registry_files.py",),
    ),
    Mutation(
        "Every folder on the way to a handler is checked.",
        "file_safety: _Checker.check",
        rewrite("on_the_way and bool(_)", "on_the_way"),
        ("tests/settings/test_file_safety.py",),
    ),
    # Settings.
    Mutation(
        "The environment overrides the settings file.",
        "config: load",
        rewrite("_1 | from_environment(_2)", "from_environment(_2) | _1"),
        ("tests/settings/test_settings_sources.py",),
    ),
    Mutation(
        "A secret file that every user can read is refused.",
        "settings_sources: _secret",
        rewrite("content.public and _", "False"),
        ("tests/settings/test_settings_sources.py",),
    ),
    Mutation(
        "An error in a setting that may hold a secret does not show its value.",
        "setting_problems: _came",
        rewrite("_HIDDEN.search(location) or _1 or _2", "False"),
        ("tests/settings/test_config.py",),
    ),
    Mutation(
        "A reload is refused if a setting has changed that takes a restart.",
        "daemon: takes_restart",
        rewrite("not info_of(_).reloadable", "False"),
        ("tests/engine/test_reload.py",),
    ),
)


def verdict(mutation: Mutation) -> str:
    """``noticed`` if a test fails, ``SURVIVED`` if all pass, ``BROKEN`` if they can't be collected."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        path, source = mutated(mutation.place, mutation.change, tree)
        path.write_text(source, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=60", *mutation.tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    return {0: "SURVIVED", 1: "noticed"}.get(ran.returncode, "BROKEN")


def _is_missed(mutation: Mutation) -> bool:
    found = verdict(mutation)
    print(f"{found:8}  {mutation.guarantee}", flush=True)  # noqa: T201 - a program's output
    return found != "noticed"


def main() -> int:
    """Try the chosen mutations, or all; returns the number that no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only the mutations whose sentence holds one of these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at once")
    given = parser.parse_args()
    chosen = [one for one in MUTATIONS if not given.words or any(word in one.guarantee for word in given.words)]
    with ThreadPoolExecutor(given.jobs) as pool:
        return sum(pool.map(_is_missed, chosen))


if __name__ == "__main__":
    sys.exit(main())
