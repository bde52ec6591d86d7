"""Take one guarantee out of the code at a time and see that a test notices.

Run by hand, from the checkout: ``python -m tests.mutations [NAME ...]``. Each mutation is made in a copy of the tree,
the tests named beside it are run there, and they must fail. ``tests/test_mutations.py`` keeps the places true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutation:
    """One guarantee taken out.

    Args:
        name: Which guarantee.
        path: The file.
        old: The text that gives it; stands there once.
        new: What it becomes.
        tests: What must fail then: arguments for pytest.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS: Final = (
    Mutation(
        "no secret in a stored error",
        "consumer/engine/settle.py",
        "        error=SECRETS.mask(dead.error),",
        "        error=dead.error,",
        ("tests/engine/test_stored_secrets.py",),
    ),
    Mutation(
        "no secret in a stored failure",
        "consumer/engine/settle.py",
        "error = SECRETS.mask(failure)",
        "error = failure",
        ("tests/engine/test_stored_secrets.py",),
    ),
    Mutation(
        "no letter beyond the limit",
        "consumer/engine/settle.py",
        "if not self._letters.take(size_bytes):",
        "if not self._letters.take(size_bytes) and not letter:",
        ("tests/engine/test_letter_limit.py",),
    ),
    Mutation(
        "no poll at the limit",
        "consumer/engine/poll.py",
        "            while lane.letters.is_full:",
        "            while lane.letters.is_full and not lane.slots.total:",
        ("tests/engine/test_letter_limit.py",),
    ),
    Mutation(
        "no link for the lock",
        "consumer/store/owner.py",
        "flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK",
        "flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK",
        ("tests/store/test_store_file_access.py",),
    ),
    Mutation(
        "the database's own inode is locked",
        "consumer/store/owner.py",
        "self._owns_inode = self._lock_inode(database)",
        "self._owns_inode = True",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "forked children let go of the store",
        "consumer/store/owner.py",
        "os.register_at_fork(after_in_child=_let_go_in_child)",
        "",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "no descriptor of the database is closed beside SQLite",
        "consumer/store/owner.py",
        "        if self._locked == _identity(self._lock_path):",
        "        os.close(os.open(self._path, os.O_RDONLY))\n        if self._locked == _identity(self._lock_path):",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "the lock is looked at before each batch",
        "consumer/store/sqlite_writer.py",
        "        self._owner.check()\n",
        "",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "a log that was cut off is noticed",
        "consumer/store/open_files.py",
        "if valid and wal_bytes < needed",
        "if valid and wal_bytes < 0 * needed",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "a log that others put in place is left to them",
        "consumer/store/sqlite_writer.py",
        "if self._files.may_be_closed():",
        "if True:",
        ("tests/store/test_store_owner.py",),
    ),
    Mutation(
        "the death of the store's thread ends the daemon",
        "consumer/app.py",
        "                background.start_soon(self._watch_store)\n                background.start_soon(self._letters",
        "                background.start_soon(self._letters",
        ("tests/process/test_store_trouble.py",),
    ),
    Mutation(
        "a store that others may write",
        "consumer/store/sqlite_writer.py",
        "if problem := refusal(self._path, by_owner=True):",
        "if problem := None:",
        ("tests/store/test_store_file_access.py",),
    ),
    Mutation(
        "certificates verified off loopback",
        "consumer/store_address.py",
        "return None if self.is_local and not self.tls else SslMode.VERIFY_FULL",
        "return None",
        ("tests/settings/test_store_address.py", "tests/store/test_store_postgres_tls.py"),
    ),
    Mutation(
        "done before delete",
        "consumer/engine/settle.py",
        """                if not await self._gate.persist(lambda: self._ledger.done(record)):
                    return self._taken_over(delivery)
                self._delete(delivery)
""",
        """                self._delete(delivery)
                if not await self._gate.persist(lambda: self._ledger.done(record)):
                    return self._taken_over(delivery)
""",
        ("tests/engine/test_store_outage.py",),
    ),
    Mutation(
        "dead letter before delete",
        "consumer/engine/settle.py",
        """        try:
            if not await self._gate.persist(lambda: self._ledger.bury(letter)):
                return self._taken_over(delivery)
        finally:
            self._letters.settled(size_bytes)
        self._delete(delivery)
""",
        """        self._delete(delivery)
        try:
            if not await self._gate.persist(lambda: self._ledger.bury(letter)):
                return self._taken_over(delivery)
        finally:
            self._letters.settled(size_bytes)
""",
        ("tests/engine/test_store_outage.py",),
    ),
    Mutation(
        "newest receipt",
        "consumer/engine/delivery.py",
        """        self.receipt = receipt
        self.adrift = False
""",
        """        self.adrift = False
""",
        ("tests/engine/test_lease.py",),
    ),
    Mutation(
        "silent clients make room",
        "consumer/ops/admin.py",
        "            next((each for each in self._all if not each._asked), oldest)._make_room()",
        "            return self.transport.abort()",
        ("tests/ops/test_admin.py",),
    ),
    Mutation(
        "foreign names are refused",
        "consumer/ops/admin.py",
        '        if not is_allowed(request.headers.getall("Host", ()), self._hosts):',
        "        if False:",
        ("tests/ops/test_admin.py",),
    ),
    Mutation(
        "logs hide nothing",
        "consumer/ops/line.py",
        "    return json_line_escaped(rendered)",
        "    return rendered",
        ("tests/ops/test_logs.py",),
    ),
    Mutation(
        "a sender is no parent",
        "consumer/ops/traces.py",
        "        if not self._trusted:",
        "        if False:",
        ("tests/engine/test_traces.py",),
    ),
    Mutation(
        "holder check",
        "consumer/store/postgres_statements.py",
        "  WHERE holder = $1 AND {which} ORDER BY key_id FOR UPDATE",
        "  WHERE $1::text IS NOT NULL AND {which} ORDER BY key_id FOR UPDATE",
        ("tests/store/test_store_ledger.py",),
    ),
    Mutation(
        "no setting outlives its transaction",
        "consumer/store/postgres_session.py",
        'settings._conditional(is_local="true")',
        'settings._conditional(is_local="false")',
        ("tests/store/test_store_postgres_pooler.py",),
    ),
    Mutation(
        "a pooler is recognised",
        "consumer/store/postgres_link.py",
        'is_pooled = await connection.execute(text) != "SELECT 1"',
        'is_pooled = await connection.execute(text) == "no"',
        ("tests/store/test_store_postgres_pooler.py",),
    ),
    Mutation(
        "shield around settle",
        "consumer/app.py",
        "        moment_s = HURRY_S\n",
        "        moment_s = 0.0\n",
        ("tests/engine/test_stop.py",),
    ),
    Mutation(
        "flush at stop",
        "consumer/app.py",
        "            await self.stopping.flush()\n",
        "",
        ("tests/engine/test_stop.py",),
    ),
    Mutation(
        "take-over",
        "consumer/store/postgres_statements.py",
        "AND (job.held_until IS NULL OR job.held_until <= clock_timestamp() OR job.holder = excluded.holder)",
        "AND (job.held_until IS NULL OR job.holder = excluded.holder)",
        ("tests/store/test_store_ledger.py",),
    ),
    Mutation(
        "pacing",
        "consumer/engine/poll.py",
        """            await self._pause(self._outage.failed(error))
            return None
""",
        """            self._outage.failed(error)
            await self._pause(0)
            return None
""",
        ("tests/engine/test_long_outage.py",),
    ),
    Mutation(
        "no re-sending",
        "consumer/cloud/pool.py",
        "session._retry_connection = False",
        "session._retry_connection = True",
        ("tests/cloud/test_cloud_pool.py", "tests/cloud/test_cloud_mns.py"),
    ),
    Mutation(
        "what comes unasked is no answer",
        "consumer/cloud/pool.py",
        "            if not protocol.reused or protocol.is_clean():\n",
        "            if True:\n",
        ("tests/cloud/test_cloud_pool.py",),
    ),
    Mutation(
        "a Date that can't be true is not believed",
        "consumer/cloud/server_clock.py",
        "        if date_s is not None and abs(date_s - expected_s) > BELIEVED_S:\n",
        "        if False:\n",
        ("tests/cloud/test_cloud_pool.py", "tests/cloud/test_own_mns.py"),
    ),
    Mutation(
        "age by the monotonic clock",
        "consumer/engine/delivery.py",
        "        return self._age_s + time.monotonic() - self.received_at\n",
        "        return max(0.0, time.time() + self.age_offset_s - self.message.enqueued_at)\n",
        ("tests/engine/test_clocks.py",),
    ),
    Mutation(
        "nothing is removed by a wrong clock",
        "consumer/engine/upkeep.py",
        "                _demand_agreement(await ledger.now(), lanes)\n",
        "",
        ("tests/engine/test_clocks.py",),
    ),
    Mutation(
        "a thread keeps its claim",
        "consumer/engine/lease.py",
        "        if delivery.stage >= Stage.RUNNING:\n",
        "        if delivery.stage is Stage.SETTLING:\n",
        ("tests/engine/test_lease.py",),
    ),
    Mutation(
        "suspects run alone",
        "consumer/policy.py",
        "SUSPECT_STARTS = 3\n",
        "SUSPECT_STARTS = 99\n",
        ("tests/process/test_crashing.py",),
    ),
    Mutation(
        "waiting for MPS",
        "consumer/engine/results.py",
        "            if self.fault is not None:\n                await self._until_it_answers(give_up_at)\n",
        "            if self.fault is not None:\n                await anyio.sleep(0.1)\n",
        ("tests/engine/test_results.py",),
    ),
    Mutation(
        "what ended is found by the next daemon",
        "consumer/store/sqlite_index.py",
        "SELECT max(begun, coalesce(",
        "SELECT max(0, coalesce(",
        ("tests/store/test_store_sqlite_index.py",),
    ),
    Mutation(
        "a message set aside leaves its job open",
        "consumer/engine/process.py",
        "isinstance(outcome, Dead) and not (outcome.closes_job and delivery.claimed)",
        "isinstance(outcome, Dead) and not delivery.claimed",
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "a failure is asked about",
        "consumer/engine/fetch.py",
        "trust.verify is Verify.ALWAYS or notification.phase is Phase.FAILED",
        "trust.verify is Verify.ALWAYS",
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "MPS's word against the message's",
        "consumer/engine/fetch.py",
        "        if different := contradictions(",
        "        if False and contradictions(",
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "the ledger's word against the message's",
        "consumer/engine/process.py",
        "    if not different:\n        return Skipped.DUPLICATE\n",
        "    if different is not None:\n        return Skipped.DUPLICATE\n",
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "no result from the message",
        "consumer/engine/fetch.py",
        "not (trust.inline_result and notification.result_text is not None)",
        "notification.result_text is None",
        ("tests/engine/test_forged.py",),
    ),
    Mutation(
        "a missing right is named",
        "consumer/cloud/pool.py",
        """            detail = f"{detail.rstrip(' .;')}; {to_do}"
""",
        """            detail = f"{detail.rstrip(' .;')}"
""",
        ("tests/cloud/test_cloud_mps.py", "tests/cli/test_cli_check_rights.py", "tests/engine/test_missing_rights.py"),
    ),
    Mutation(
        "a denied delete is bad",
        "consumer/cli/check_queue.py",
        """        return bad(what, f"{explained(error)}{'; a job may have been made' if is_open else ''}", queue)
    if accepted:
""",
        """        accepted = ""
    if accepted:
""",
        ("tests/cli/test_cli_check_rights.py",),
    ),
    Mutation(
        "a lost submission may exist",
        "consumer/cli/submit.py",
        "        if surely_not_sent(error):\n            raise\n",
        "        if surely_not_sent(error) or error:\n            raise\n",
        ("tests/cli/test_cli_submit.py",),
    ),
    Mutation(
        "source alone",
        "consumer/plugin/loading.py",
        "    if not installed:\n",
        "    if False:\n",
        ("tests/plugin/test_registry_files.py",),
    ),
    Mutation(
        "every step of the way",
        "consumer/file_safety.py",
        "            self._check_step(step, found, may_be_shared=on_the_way and bool(found.st_mode & stat.S_ISVTX))\n",
        "            self._check_step(step, found, may_be_shared=on_the_way)\n",
        ("tests/settings/test_file_safety.py",),
    ),
    Mutation(
        "no proxy for keys",
        "consumer/cloud/credentials.py",
        "    go_direct()\n",
        "",
        ("tests/cloud/test_cloud_credentials_proxy.py",),
    ),
    Mutation(
        "no secret on the command line",
        "consumer/cli/main.py",
        "        refuse_secrets(words)\n",
        "",
        ("tests/cli/test_cli_secrets.py",),
    ),
    Mutation(
        "what a blocked loop holds is renewed",
        "consumer/engine/stand_in.py",
        "                    due.append((queue, held))",
        "                    due.extend(())",
        ("tests/process/test_blocked_loop.py", "tests/engine/test_blocked_loop.py"),
    ),
    Mutation(
        "the other thread's handle is waited for",
        "consumer/engine/receipt_lock.py",
        "        while self._loans != self._returned:",
        "        while self._loans < self._returned:",
        ("tests/engine/test_blocked_loop.py",),
    ),
    Mutation(
        "a block is no start of the handlers that do not block",
        "consumer/engine/stand_in.py",
        "            if held is not self._spare and has_start(held)",
        "            if held is self._spare and not has_start(held)",
        ("tests/process/test_blocked_loop.py",),
    ),
    Mutation(
        "keys are renewed without a new thread",
        "consumer/cloud/credentials.py",
        "                    if not counts.threads:",
        "                    if counts.threads:",
        ("tests/cloud/test_cloud_credentials.py",),
    ),
    Mutation(
        "a stop starts no thread",
        "consumer/daemon.py",
        """        if not ended.is_set():
            raise ConsumerError""",
        """        if ended.is_set():
            raise ConsumerError""",
        ("tests/process/test_no_threads.py",),
    ),
)


def survives(mutation: Mutation) -> bool:
    """Whether the tests pass although the guarantee is gone."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        path = tree / mutation.path
        path.write_text(path.read_text().replace(mutation.old, mutation.new))
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            check=False,
            timeout=600,
        )
    return ran.returncode == 0


def main(names: list[str]) -> int:
    """Try the mutations of these names, or all; returns how many no test noticed."""
    missed = 0
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        noticed = not survives(mutation)
        missed += not noticed
        print(f"{'noticed' if noticed else 'MISSED '}  {mutation.name}", flush=True)  # noqa: T201 - a program's output
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
